import Domain
import Hummingbird
import Postgres
import Store

/// Snapshots, backups and archives of sandboxes; forks and how they belong together.
extension SandboxRoutes {
    var captureRoutes: [APIRoute] {
        [
            APIRoute(
                .post,
                "/sandbox/{id}/snapshot",
                "create_sandbox_snapshot",
                .permission(.writeSandboxes),
                snapshot
            ),
            APIRoute(.post, "/sandbox/{id}/backup", "create_backup", .permission(.writeSandboxes)) { call in
                try answer(
                    try await sandboxes.capture(
                        call.parameter("id"),
                        for: try call.caller,
                        as: .backup,
                        CaptureDecision.backup
                    )
                )
            },
            APIRoute(.post, "/sandbox/{id}/archive", "archive_sandbox", .permission(.writeSandboxes)) { call in
                let archived = try await sandboxes.change(call.parameter("id"), for: try call.caller) {
                    LifecycleDecision.archive($0)
                }
                return try answer(archived)
            },
            APIRoute(.post, "/sandbox/{id}/fork", "fork_sandbox", .permission(.writeSandboxes), fork),
            APIRoute(.get, "/sandbox/{id}/parent", "get_sandbox_parent", .key) { call in
                let caller = try call.caller
                let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
                let line = try await database.captures.ancestors(of: sandbox.id, in: caller.organization, limit: 1)
                guard let parent = line.first else {
                    throw APIError.notFound("the sandbox '\(sandbox.name)' was not forked from another that lives")
                }
                return try answer(parent)
            },
            APIRoute(.get, "/sandbox/{id}/ancestors", "get_sandbox_ancestors", .key) { call in
                let caller = try call.caller
                let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
                return try answer(try await database.captures.ancestors(of: sandbox.id, in: caller.organization))
            },
            APIRoute(.get, "/sandbox/{id}/forks", "get_sandbox_forks", .key) { call in
                var query = QueryReader(call.query)
                let includesDestroyed = query.bool("includeDestroyed") ?? false
                try query.finish()
                let caller = try call.caller
                let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
                return try answer(
                    try await database.captures.forks(
                        of: sandbox.id,
                        in: caller.organization,
                        includingDestroyed: includesDestroyed
                    )
                )
            },
        ]
    }

    private func answer(_ records: [SandboxRecord]) throws -> Response {
        try .json(records.map { SandboxWire($0, toolboxProxyURL: configuration.toolboxProxyURL) })
    }

    private func snapshot(_ call: Call) async throws -> Response {
        let caller = try call.caller
        var fields = FieldReader(try await call.object())
        let name = fields.string("name", limit: 4 * SandboxRules.nameLimit) ?? ""
        if fields.bool("includeMemory") == true {
            fields.complain("includeMemory is true, but of a sandbox of class container only the files can be kept")
        }
        if let problem = SandboxRules.problem(ofName: name) { fields.complain(problem) }
        try fields.finish()
        do {
            let asked = try await sandboxes.capture(
                call.parameter("id"),
                for: caller,
                as: .snapshot,
                named: name,
                CaptureDecision.snapshot
            )
            // The SDK concludes from this answer alone: it must either show 'snapshotting', or show it done.
            let held = try await sandboxes.hold(asked, for: caller, atMost: sandboxes.limits.createHold) {
                $0.state != .snapshotting
            }
            if held.state != .snapshotting { try await judgeSnapshot(name, for: caller) }
            return try answer(held)
        } catch let error as PostgresError where error.constraint == "snapshot_name_is_unique_in_organization" {
            throw APIError.conflict(
                "a snapshot with the name '\(name.shortened)' exists already. Choose another name, or delete that one"
            )
        }
    }

    /// Throws if it has failed already: the sandbox is as before then, from which the SDK would conclude that it was made.
    private func judgeSnapshot(_ name: String, for caller: Caller) async throws {
        guard let made = try await database.snapshots.find(name, for: caller.organization), made.state == .error else {
            return
        }
        throw APIError.badRequest(
            "the snapshot '\(name.shortened)' could not be made: \(made.errorReason ?? "the runner's log says why"). Try it again (POST /snapshots/\(made.id)/activate), or delete it"
        )
    }

    /// Answers the child, when it has started or failed, or when the hold is over.
    private func fork(_ call: Call) async throws -> Response {
        let caller = try call.caller
        var fields = FieldReader(try await call.object())
        let name = fields.string("name", limit: 4 * SandboxRules.nameLimit).flatMap { $0.isEmpty ? nil : $0 }
        if let name, let problem = SandboxRules.problem(ofName: name) { fields.complain(problem) }
        try fields.finish()
        do {
            let child = try await sandboxes.fork(call.parameter("id"), for: caller, named: name)
            let held = try await sandboxes.hold(child, for: caller, atMost: sandboxes.limits.createHold) {
                $0.isSettledStarting
            }
            return try answer(held)
        } catch let error as PostgresError where error.constraint == "sandbox_name_is_unique" {
            throw APIError.conflict(
                "a sandbox with the name '\((name ?? "").shortened)' exists already. Choose another name, or delete that one"
            )
        }
    }
}
