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
                try await leaveIdle(database)
                try await database.holdLease(of: runner)
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

    /// While the database was away, or the runner, nobody could say that a sandbox is in use.
    @Test func nobodyIsIdleJustAfterTheLeaseHadLapsed() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let one = try await database.makeSandbox(of: tenant) { $0.autoDeleteMinutes = 0 }
                try await runner.report(one.id, .started)
                try await leaveIdle(database)
                try await database.holdLease(of: runner)
                try await runner.renewLease(seconds: 0)
                #expect(try await expire(runner) == 0, "the timers came before the lease")
                try await runner.renewLease()
                #expect(try await expire(runner) == 0, "the proxies have had no time to report")
                try await database.holdLease(of: runner, for: .seconds(14 * 60))
                try await runner.renewLease()
                #expect(try await expire(runner) == 0)
                try await database.holdLease(of: runner, for: .seconds(16 * 60))
                try await runner.renewLease()
                #expect(try await expire(runner) == 1, "renewing a lease that has not lapsed puts nothing off")
                #expect(try await desired(one, database) == .destroyed)
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
                #expect(try await expire(runner) == 0, "a runner that is just back gets a minute")
                try await database.holdLease(of: runner)
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

    /// Its engine may be away, so that no pass gets as far as a report.
    @Test func aChangeThatIsNotBegunHasADeadlineToo() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(cpu: 1) { runner in
                let one = try await database.makeSandbox(of: tenant)
                try await runner.report(one.id, .started)
                try await database.holdLease(of: runner)
                for (wish, state) in [(DesiredState.stopped, PublicState.stopping), (.started, .starting)] {
                    try await database.owner.execute("UPDATE sandbox SET desired_state = \(wish)")
                    #expect(try await find(one, database, tenant).state == state)
                    #expect(try await expire(runner) == 0)
                    try await database.owner.execute(
                        "UPDATE sandbox SET desired_changed_at = now() - interval '6 minutes'"
                    )
                    #expect(try await expire(runner) == 1)
                    let seen = try await find(one, database, tenant)
                    #expect(seen.state == .error)
                    #expect(seen.errorReason?.contains("did not begin") == true)
                    #expect(try await booked(one, database) == 0)
                    #expect(try await expire(runner) == 0, "once")
                    try await runner.report(one.id, .stopped)
                }
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed'")
                try await database.owner.execute(
                    "UPDATE sandbox SET desired_changed_at = now() - interval '6 minutes'"
                )
                #expect(try await expire(runner) == 0, "what is to be destroyed is tried for ever")
            }
        }
    }

    /// A deadline frees compute although the container may run, or be about to: the report that says so books it again.
    @Test func whatRunsAfterItsDeadlineIsBookedAgain() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(cpu: 1) { runner in
                let late = try await database.makeSandbox(of: tenant)
                try await database.owner.execute("UPDATE sandbox_status SET deadline_at = now() - interval '1 second'")
                try await database.holdLease(of: runner)
                #expect(try await expire(runner) == 1)
                #expect(try await timedOut(runner, late))
                try await database.makeSandbox(of: tenant)
                try await runner.report(late.id, .started)
                #expect(try await booked(late, database) == 1)
                #expect(try await timedOut(runner, late) == false)
                try await expectLoadsEqualSums(database)
                let third = try await database.makeSandbox(of: tenant)
                #expect(third.runnerID == nil, "two of one are promised; no more are")
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
                #expect(try await count("sandbox_queue", database) == 0)
                #expect(
                    try await endings(database) == ["time to live", "waited too long for a runner"],
                    "every end has its event"
                )
                try await database.owner.execute("UPDATE sandbox SET destroyed_at = now() - interval '25 hours'")
                #expect(try await api.sandboxes.housekeep() == 2)
                #expect(try await count("sandbox", database) == 0)
            }
        }
    }

    /// However many events there are, those that are due are found by an index, and no timer waits for their deletion.
    @Test func oldEventsGo() async throws {
        try await TestDatabase.with { database in
            try await database.owner.execute(
                """
                INSERT INTO event (kind, subject_id, at)
                SELECT 'test', gen_random_uuid(), now() - n * interval '1 minute' FROM generate_series(1, 43300) AS n
                """
            )
            try await database.owner.execute("ANALYZE event")
            let plan = try await database.owner.query(
                "EXPLAIN SELECT id FROM event WHERE at < now() - interval '30 days' ORDER BY at LIMIT 10000"
            ).map { try $0.decode(at: 0, as: String.self) }.joined(separator: "\n")
            #expect(plan.contains("event_by_age"), "\(plan)")
            try await database.withPool(of: .api) { api in
                let deleted = [try await api.sandboxes.purgeEvents(), try await api.sandboxes.purgeEvents()]
                #expect(deleted == [101, 0])
            }
            #expect(try await count("event", database) == 43_199)
        }
    }

    private func leaveIdle(_ database: TestDatabase) async throws {
        try await database.owner.execute("UPDATE sandbox_activity SET last_activity_at = now() - interval '16 minutes'")
        try await database.owner.execute("UPDATE sandbox_status SET started_at = now() - interval '16 minutes'")
    }

    private func find(_ sandbox: SandboxRecord, _ database: TestDatabase, _ tenant: TestTenant) async throws
        -> SandboxRecord
    {
        try await database.owner.sandboxes.find(sandbox.id, in: tenant.organization)!
    }

    private func booked(_ sandbox: SandboxRecord, _ database: TestDatabase) async throws -> Int {
        try await database.owner.queryFirst("SELECT cpu FROM sandbox_placement WHERE sandbox_id = \(sandbox.id)")![
            "cpu"
        ]
    }

    private func timedOut(_ runner: TestRunner, _ sandbox: SandboxRecord) async throws -> Bool {
        try await RunnerQueries(runner.pool).sandbox(sandbox.id)!.reported.hasTimedOut
    }

    private func endings(_ database: TestDatabase) async throws -> [String] {
        try await database.owner.query(
            "SELECT cause FROM event WHERE kind = 'sandbox.state.updated' AND new_state = 'destroyed' ORDER BY cause"
        ).map { try $0["cause"] }
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
