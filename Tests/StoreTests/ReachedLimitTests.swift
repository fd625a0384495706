import Domain
import Postgres
import Store
import Testing
import TestSupport

/// What a runner reports of reached limits, and what becomes of it.
@Suite struct ReachedLimitTests {
    @Test func whatGrewIsAnEventAndOnlyThat() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let id = try await database.makeSandbox(of: tenant).id
                try await runner.report(id, .started)
                let queries = RunnerQueries(runner.pool)
                func report(run: String, kills: Int64, forks: Int64 = 0, full: Bool = false) async throws -> [String] {
                    var report = SandboxReport(.started)
                    var effective = EffectiveLimits()
                    (effective.run, effective.memoryBytes, effective.pids) = (run, 1 << 30, 64)
                    effective.diskBytes = 2 << 30
                    var reached = LimitsReached()
                    (reached.memoryKills, reached.refusedForks, reached.isDiskFull) = (kills, forks, full)
                    effective.reached = reached
                    report.effective = effective
                    #expect(try await queries.report(report, of: id, epoch: 1))
                    #expect(try await queries.sandbox(id)?.reported.effective.reached == reached)
                    let rows = try await database.owner.query("SELECT cause FROM reached_limits ORDER BY at, cause")
                    return try rows.map { try $0["cause"] }
                }
                #expect(try await report(run: "a", kills: 0).isEmpty)
                let killed = "out of memory: the kernel killed 2 of its processes; the limit is 1024 MiB of memory"
                #expect(try await report(run: "a", kills: 2) == [killed])
                #expect(try await report(run: "a", kills: 2) == [killed], "nothing new")
                let refused = "too many processes: 5 processes or threads were refused; the limit is 64 at a time"
                #expect(try await report(run: "a", kills: 2, forks: 5) == [killed, refused])
                let full = "disk full: its 2048 MiB are used up"
                #expect(try await report(run: "a", kills: 2, forks: 5, full: true) == [killed, refused, full])
                #expect(try await report(run: "a", kills: 2, forks: 5).count == 3, "that it is empty again is no event")
                #expect(try await report(run: "b", kills: 2).last == killed, "the counts of another run begin anew")
                let event = try await database.owner.queryFirst(
                    "SELECT organization_id FROM event WHERE kind = 'sandbox.limit.reached' LIMIT 1"
                )
                #expect(try event?.decode("organization_id", as: OrganizationID.self) == tenant.organization)
            }
        }
    }

    @Test func aDiskIsChangedOnlyWhereItsRunnerCan() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let id = try await database.makeSandbox(of: tenant) { $0.diskGib = 1 }.id
                try await runner.report(id, .stopped)
                func resize(to disk: Int32, enforces: Bool, changes: Bool) async throws {
                    var engine = EngineReport()
                    (engine.enforcesDiskQuota, engine.changesDiskQuota) = (enforces, changes)
                    engine.storageDriver = "overlay2"
                    try await database.owner.execute("UPDATE runner_status SET engine = \(json: engine)")
                    try await translatingErrors {
                        _ = try await database.owner.execute("UPDATE sandbox SET disk_gib = \(disk) WHERE id = \(id)")
                    }
                }
                let refusal = await #expect(throws: StoreError.self) {
                    try await resize(to: 2, enforces: true, changes: false)
                }
                #expect(refusal?.code == .invalidValue && refusal?.message.contains("overlay2") == true)
                #expect(refusal?.hint?.contains("new sandbox") == true)
                try await resize(to: 1, enforces: true, changes: false)
                try await resize(to: 2, enforces: true, changes: true)
                try await resize(to: 3, enforces: false, changes: false)
            }
        }
    }
}
