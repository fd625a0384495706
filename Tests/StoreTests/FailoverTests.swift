import Domain
import Postgres
import Store
import TestSupport
import Testing

@Suite struct FailoverTests {
    @Test func orphansAreReclaimedWithANewEpochAndTheOldRunnerIsFenced() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner("dead") { dead in
                let running = try await database.makeSandbox(of: tenant, name: "running")
                let doomed = try await database.makeSandbox(of: tenant, name: "doomed")
                try await dead.report(running.id, .started)
                _ = try await database.owner.sandboxes.apply(
                    .destroy,
                    to: doomed.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                try await database.withRunner("alive") { alive in
                    #expect(try await reclaim(alive) == [], "the lease holds")
                    try await dead.renewLease(seconds: 0)
                    let unknown = try await database.owner.sandboxes.find(running.id, in: tenant.organization)
                    #expect(unknown?.state == .unknown)
                    #expect(try await reclaim(alive) == [], "the grace period has not passed")
                    try await database.owner.execute(
                        "UPDATE runner_lease SET expires_at = now() - interval '61 seconds' WHERE runner_id = \(dead.id)"
                    )
                    #expect(try await reclaim(alive) == [], "its own lease is too young to tell")
                    try await database.holdLease(of: alive)
                    #expect(try await reclaim(alive) == [running.id])
                    let taken = try await database.owner.queryFirst(
                        "SELECT runner_id, epoch FROM sandbox_placement WHERE sandbox_id = \(running.id)"
                    )
                    #expect(try taken!["runner_id"] == alive.id)
                    #expect(try taken!["epoch"] == 2)
                    #expect(try await database.owner.sandboxes.find(doomed.id, in: tenant.organization) == nil)
                    let end = try await database.owner.queryFirst(
                        "SELECT cause FROM event WHERE subject_id = \(doomed.id) AND new_state = 'destroyed' AND old_state = 'destroying'"
                    )
                    #expect(try end!.decode("cause", as: String.self).contains("lease expired"))
                    #expect(try await writeUnderOldEpoch(dead, running.id) == 0)
                    #expect(try await releaseUnderOldEpoch(dead, running.id) == false)
                    #expect(try await alive.report(running.id, .started))
                    try await expectLoadsEqualSums(database)
                }
            }
        }
    }

    /// The database was away for longer than lease and grace: everybody's lease lapsed, and somebody comes back first.
    @Test func whoSharedAnOutageKeepsItsSandboxes() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.owner.execute("UPDATE region SET grace_seconds = 30")
            try await database.withRunner("late") { late in
                let running = try await database.makeSandbox(of: tenant)
                try await late.report(running.id, .started)
                try await database.withRunner("early") { early in
                    for runner in [late, early] { try await database.holdLease(of: runner) }
                    try await database.owner.execute(
                        "UPDATE runner_lease SET expires_at = now() - interval '10 minutes'"
                    )
                    #expect(try await reclaim(early) == [], "before its lease")
                    try await early.renewLease()
                    #expect(try await reclaim(early) == [])
                    try await early.renewLease()
                    #expect(try await reclaim(early) == [], "each renewal")
                    try await database.holdLease(of: early, for: .seconds(10))
                    #expect(try await reclaim(early) == [])
                    try await database.holdLease(of: early, for: .seconds(31))
                    #expect(try await reclaim(early) == [running.id], "the other had a whole grace to come back")
                }
            }
        }
    }

    @Test func stoppedSandboxesWaitForTheirRunner() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner("away") { away in
                let one = try await database.makeSandbox(of: tenant)
                try await away.report(one.id, .started)
                _ = try await database.owner.sandboxes.apply(
                    .stop(force: false),
                    to: one.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                try await away.report(one.id, .stopped)
                try await database.withRunner("other") { other in
                    try await database.holdLease(of: other)
                    try await database.owner.execute(
                        "UPDATE runner_lease SET expires_at = now() - interval '1 hour' WHERE runner_id = \(away.id)"
                    )
                    #expect(try await reclaim(other) == [])
                    try await away.renewLease()
                    #expect(try await database.owner.sandboxes.find(one.id, in: tenant.organization)?.state == .stopped)
                }
            }
        }
    }

    private func reclaim(_ runner: TestRunner) async throws -> [SandboxID] {
        try await runner.pool.query("SELECT reclaim_orphans(10) AS id").map { try $0["id"] }
    }

    private func writeUnderOldEpoch(_ runner: TestRunner, _ id: SandboxID) async throws -> Int {
        try await runner.pool.execute(
            "UPDATE sandbox_status SET state = 'stopped' WHERE sandbox_id = \(id) AND runner_id = \(runner.id) AND epoch = 1"
        )
    }

    private func releaseUnderOldEpoch(_ runner: TestRunner, _ id: SandboxID) async throws -> Bool {
        try await runner.pool.queryFirst("SELECT release(\(id), 1) AS done")!["done"]
    }
}
