import Domain
import Hummingbird
import Store

/// What can be set while a sandbox is in any state, and small questions about it.
extension SandboxRoutes {
    var settingRoutes: [APIRoute] {
        [
            APIRoute(.put, "/sandbox/{id}/labels", "replace_labels", .permission(.writeSandboxes), replaceLabels),
            setting("/sandbox/{id}/public/{isPublic}", "update_public_status") { call in
                .isPublic(try call.boolean("isPublic"))
            },
            setting("/sandbox/{id}/autostop/{interval}", "set_autostop_interval") { call in
                .autoStop(minutes: try call.integer("interval", in: 0...SandboxRules.minutesLimit))
            },
            setting("/sandbox/{id}/autoarchive/{interval}", "set_auto_archive_interval") { call in
                let minutes = try call.integer("interval", in: 0...SandboxRules.autoArchiveMinutesLimit)
                return .autoArchive(minutes: SandboxRules.effectiveAutoArchive(minutes))
            },
            setting("/sandbox/{id}/autodelete/{interval}", "set_auto_delete_interval") { call in
                let minutes = try call.integer("interval", in: -SandboxRules.minutesLimit...SandboxRules.minutesLimit)
                return .autoDelete(minutes: max(minutes, -1))
            },
            setting("/sandbox/{id}/ttl/{ttlMinutes}", "set_ttl") { call in
                let minutes = try call.integer("ttlMinutes", in: 0...SandboxRules.minutesLimit)
                return .timeToLive(minutes: minutes == 0 ? nil : minutes)
            },
            APIRoute(
                .post,
                "/sandbox/{id}/autopause/{interval}",
                "set_auto_pause_interval",
                .permission(.writeSandboxes)
            ) { call in
                let sandbox = try await sandboxes.find(call.parameter("id"), for: try call.caller)
                guard try call.integer("interval", in: 0...SandboxRules.minutesLimit) == 0 else {
                    throw Self.cannotPause
                }
                return try answer(sandbox)
            },
            APIRoute(
                .post,
                "/sandbox/{id}/terminal-recording/{isOn}",
                "set_terminal_recording",
                .permission(.writeSandboxes),
                setRecording
            ),
            APIRoute(
                .post,
                "/sandbox/{id}/network-settings",
                "update_network_settings",
                .permission(.writeSandboxes),
                setNetwork
            ),
            APIRoute(.post, "/sandbox/{id}/last-activity", "update_last_activity", .permission(.writeSandboxes)) {
                call in
                let sandbox = try await sandboxes.find(call.parameter("id"), for: try call.caller)
                try await database.sandboxes.reportActivity([sandbox.id])
                return .empty(.created)
            },
            APIRoute(.get, "/sandbox/{id}/toolbox-proxy-url", "get_toolbox_proxy_url", .key) { call in
                _ = try await sandboxes.find(call.parameter("id"), for: try call.caller)
                return try .json(URLWire(url: configuration.toolboxProxyURL))
            },
            // A signing key lets its holder read and write files, so reading it takes the right to write.
            APIRoute(
                .get,
                "/sandbox/{id}/signing-key",
                "get_sandbox_signing_key",
                .permission(.writeSandboxes),
                signingKey
            ),
            APIRoute(.post, "/sandbox/{id}/signing-key/rotate", "rotate_signing_key", .permission(.writeSandboxes)) {
                call in
                _ = try await sandboxes.set(call.parameter("id"), for: try call.caller, to: .newSigningKey)
                return try await signingKey(call)
            },
        ]
    }

    private func setting(
        _ pattern: String,
        _ operation: String,
        _ change: @escaping @Sendable (Call) throws -> SandboxChange
    ) -> APIRoute {
        APIRoute(.post, pattern, operation, .permission(.writeSandboxes)) { call in
            let change = try change(call)
            return try answer(try await sandboxes.set(call.parameter("id"), for: try call.caller, to: change))
        }
    }

    private func replaceLabels(_ call: Call) async throws -> Response {
        var fields = FieldReader(try await call.object())
        let labels = fields.strings("labels")
        if let labels {
            SandboxRules.problems(ofLabels: labels).forEach { fields.complain($0) }
        } else if fields.value("labels") == nil {
            fields.complain("labels is missing; {} removes all")
        }
        try fields.finish()
        let changed = try await sandboxes.set(call.parameter("id"), for: try call.caller, to: .labels(labels ?? [:]))
        return try .json(LabelsWire(labels: changed.labels))
    }

    /// Martlet's own. A short hold, so that it holds for the terminals that the caller opens next.
    private func setRecording(_ call: Call) async throws -> Response {
        let (caller, isOn) = (try call.caller, try call.boolean("isOn"))
        let changed = try await sandboxes.set(call.parameter("id"), for: caller, to: .recordsTerminals(isOn))
        let held = try await sandboxes.hold(changed, for: caller, atMost: sandboxes.limits.changeHold) {
            $0.state != .started || $0.isToldToRecord == $0.recordsTerminals
        }
        return try answer(held)
    }

    private func setNetwork(_ call: Call) async throws -> Response {
        let settings = try NetworkSettingsWire(try await call.object())
        return try answer(
            try await sandboxes.change(call.parameter("id"), for: try call.caller) { sandbox in
                switch sandbox.state {
                case .destroying, .destroyed: .refuse(LifecycleDecision.beingDestroyed(sandbox))
                case .creating, .restoring, .started, .stopped, .starting, .stopping, .error, .buildFailed,
                    .pendingBuild,
                    .buildingSnapshot, .unknown, .pullingSnapshot, .archived, .archiving, .resizing, .snapshotting,
                    .forking,
                    .pausing, .paused, .resuming:
                    .apply(settings.change(of: sandbox))
                }
            }
        )
    }

    private func signingKey(_ call: Call) async throws -> Response {
        let caller = try call.caller
        let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
        guard let key = try await database.sandboxes.signingKey(sandbox.id, in: caller.organization) else {
            throw APIError.sandboxNotFound(call.parameter("id"))
        }
        return try .json(key)
    }
}
