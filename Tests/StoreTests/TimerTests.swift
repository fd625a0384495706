import Domain
import Postgres
import Store
import TestSupport
import Testing

@Suite struct TimerTests {
    @Test func idleSandboxesStopAndEphemeralOnesAreDestroyed() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let idle = try await database.makeSandbox(of: tenant)
                let ephemeral = try await database.makeSandbox(of: tenant) { $0.autoDeleteMinutes = 0 }
                let busy = try await database.makeSandbox(of: tenant)
                let endless = try await database.makeSandbox(of: tenant) { $0.autoStopMinutes = 0 }
                for one in [idle, ephemeral, busy, endless] { try await runner.report(one.id, .started) }
                try await database.owner.execute(
                    "UPDATE sandbox_activity SET last_activity_at = now() - interval '16 minutes'"
                )
                try await database.owner.execute("UPDATE sandbox_status SET started_at = now() - interval '16 minutes'")
                try await database.withPool(of: .proxy) {
                    _ = try await $0.query("SELECT report_activity(\([busy.id]))")
                }
                #expect(try await expire(runner) == 2)
                #expect(try await desired(idle, database) == .stopped)
                #expect(try await desired(ephemeral, database) == .destroyed)
                #expect(try await desired(busy, database) == .started)
                #expect(try await desired(endless, database) == .started)
            }
        }
    }

    @Test func stoppedSandboxesAreDeletedInTime() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let one = try await database.makeSandbox(of: tenant) { $0.autoDeleteMinutes = 5 }
                try await runner.report(one.id, .started)
                _ = try await database.owner.sandboxes.apply(
                    .stop(force: false),
                    to: one.id,
                    in: tenant.organization,
                    by: Actor("t")
                )
                try await runner.report(one.id, .stopped)
                #expect(try await expire(runner) == 0)
                try await database.owner.execute(script: "ALTER TABLE sandbox_status DISABLE TRIGGER USER")
                try await database.owner.execute(
                    "UPDATE sandbox_status SET state_changed_at = now() - interval '5 minutes'"
                )
                #expect(try await expire(runner) == 1)
                #expect(try await desired(one, database) == .destroyed)
            }
        }
    }

    @Test func transitionsHaveADeadline() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(cpu: 1) { runner in
                let stuck = try await database.makeSandbox(of: tenant)
                try await database.owner.execute("UPDATE sandbox_status SET deadline_at = now() - interval '1 second'")
                #expect(try await expire(runner) == 1)
                let seen = try await database.owner.sandboxes.find(stuck.id, in: tenant.organization)!
                #expect(seen.state == .error)
                #expect(seen.isRecoverable)
                #expect(seen.errorReason?.contains("creating took longer than its deadline") == true)
                #expect(
                    try await database.makeSandbox(of: tenant).runnerID == runner.id,
                    "its compute is free for others"
                )
            }
        }
    }

    @Test func housekeepingEndsLivesQueuesAndRows() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let mortal = try await database.makeSandbox(of: tenant) { $0.ttlMinutes = 1 }
            let queued = try await database.makeSandbox(of: tenant) { $0.queueTimeoutMinutes = 1 }
            try await database.owner.execute(
                "UPDATE sandbox SET created_at = now() - interval '2 minutes', auto_destroy_at = auto_destroy_at - interval '2 minutes'"
            )
            try await database.withPool(of: .api) { api in
                #expect(try await api.sandboxes.housekeep() == 2)
                #expect(try await api.sandboxes.find(mortal.id, in: tenant.organization) == nil)
                let late = try await api.sandboxes.find(queued.id, in: tenant.organization)
                #expect(late?.state == .destroyed)
                #expect(late?.queueTimedOutAt != nil)
                try await database.owner.execute("UPDATE sandbox SET destroyed_at = now() - interval '25 hours'")
                #expect(try await api.sandboxes.housekeep() == 2)
                #expect(try await count("sandbox", database) == 0)
            }
        }
    }

    private func expire(_ runner: TestRunner) async throws -> Int {
        try await runner.pool.queryFirst("SELECT expire_timers() AS changed")!["changed"]
    }

    private func desired(_ sandbox: SandboxRecord, _ database: TestDatabase) async throws -> DesiredState {
        try await database.owner.queryFirst("SELECT desired_state FROM sandbox WHERE id = \(sandbox.id)")![
            "desired_state"
        ]
    }
}

extension PostgresPool {
    /// For tests: text as it is.
    func execute(script: String) async throws { try await withConnection { try await $0.execute(script: script) } }
}
