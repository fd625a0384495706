import Domain
import Hummingbird
import Store

/// Start, stop, recover, resize, pause.
extension SandboxRoutes {
    var lifecycleRoutes: [APIRoute] {
        [
            APIRoute(.post, "/sandbox/{id}/start", "start_sandbox", .permission(.writeSandboxes)) { call in
                try await change(call, until: \.isSettledStarting) { LifecycleDecision.start($0) }
            },
            APIRoute(.post, "/sandbox/{id}/stop", "stop_sandbox", .permission(.writeSandboxes)) { call in
                var query = QueryReader(call.query)
                let force = query.bool("force") ?? false
                try query.finish()
                return try await change(call, until: \.isSettledStopping) { LifecycleDecision.stop($0, force: force) }
            },
            APIRoute(.post, "/sandbox/{id}/recover", "recover_sandbox", .permission(.writeSandboxes)) { call in
                try await change(call, until: \.isSettledStarting) { LifecycleDecision.recover($0) }
            },
            APIRoute(.post, "/sandbox/{id}/resize", "resize_sandbox", .permission(.writeSandboxes), resize),
            APIRoute(.post, "/sandbox/{id}/pause", "pause_sandbox", .permission(.writeSandboxes)) { call in
                _ = try await sandboxes.find(call.parameter("id"), for: try call.caller)
                throw Self.cannotPause
            },
        ]
    }

    static var cannotPause: APIError {
        APIError(.unprocessableContent, "sandboxes of class container cannot pause; stop them instead")
    }

    /// A short hold, so that a fast change is answered as done. The state on the way is shown all the same: it is in the row.
    private func change(
        _ call: Call,
        until isSettled: (SandboxRecord) -> Bool,
        _ decide: (SandboxRecord) -> LifecycleDecision
    ) async throws -> Response {
        let caller = try call.caller
        let changed = try await sandboxes.change(call.parameter("id"), for: caller, decide)
        let limit = sandboxes.limits.changeHold
        return try answer(try await sandboxes.hold(changed, for: caller, atMost: limit, until: isSettled))
    }

    private func resize(_ call: Call) async throws -> Response {
        let caller = try call.caller
        let body = try await call.object()
        guard let organization = try await database.organizations.find(caller.organization) else {
            throw APIError.notFound("the key's organization is gone")
        }
        var fields = FieldReader(body)
        let size = SandboxSize(
            cpu: fields.integer("cpu", in: 1...organization.cpuLimitPerSandbox),
            memoryGib: fields.integer("memory", in: 1...organization.memoryLimitGibPerSandbox),
            diskGib: fields.integer("disk", in: 1...organization.diskLimitGibPerSandbox)
        )
        try fields.finish()
        let resized = try await sandboxes.change(call.parameter("id"), for: caller) {
            LifecycleDecision.resize($0, size)
        }
        // The SDK concludes from this answer alone: it must either show 'resizing', or show it done.
        let held = try await sandboxes.hold(resized, for: caller, atMost: sandboxes.limits.changeHold) {
            $0.state != .resizing
        }
        return try answer(held)
    }
}
