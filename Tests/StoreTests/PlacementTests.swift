import Domain
import Postgres
import Store
import TestSupport
import Testing

@Suite struct PlacementTests {
    @Test func parallelInsertsNeverOverbook() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner("small", cpu: 7) { _ in
                try await database.withRunner("large", cpu: 13) { _ in
                    try await database.withPool(of: .api) { api in
                        try await withThrowingTaskGroup(of: Void.self) { group in
                            for _ in 0..<50 {
                                group.addTask { try await api.sandboxes.insert(tenant.newSandbox(), by: Actor("test")) }
                            }
                            try await group.waitForAll()
                        }
                    }
                    let placed: Int = try await count("sandbox_placement", database)
                    #expect(placed == 20)
                    #expect(try await count("sandbox", database) == 50)
                    try await expectLoadsEqualSums(database)
                    try await expectNobodyOverbooked(database)
                }
            }
        }
    }

    @Test func pendingSandboxesAreClaimedWhenRoomComesFree() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(cpu: 1) { runner in
                let first = try await database.makeSandbox(of: tenant)
                let second = try await database.makeSandbox(of: tenant)
                #expect(second.runnerID == nil)
                #expect(second.state == .creating)
                #expect(try await claim(runner) == [])
                _ = try await database.owner.sandboxes.apply(
                    .destroy,
                    to: first.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                #expect(try await runner.release(first.id))
                #expect(try await claim(runner) == [second.id])
                try await expectLoadsEqualSums(database)
            }
        }
    }

    /// One that fits nowhere does not keep those behind it waiting, and runners that may not be given more take nothing.
    @Test func theQueueIsNotBlockedByItsHead() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            for _ in 0..<3 { try await database.makeSandbox(of: tenant) { $0.cpu = 40 } }
            let small = try await database.makeSandbox(of: tenant)
            try await database.withRunner(cpu: 4) { runner in
                try await database.owner.execute("UPDATE runner SET draining = true")
                #expect(try await claim(runner, most: 2) == [])
                try await database.owner.execute("UPDATE runner SET draining = false")
                #expect(try await claim(runner, most: 2) == [small.id])
            }
        }
    }

    /// Bookings, changes, reports and releases from all sides at once: none is a deadlock, and the counters are right.
    @Test func everythingAtOnceAddsUp() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner("a", cpu: 6) { a in
                try await database.withRunner("b", cpu: 6) { b in
                    try await database.withPool(of: .api) { api in
                        try await withThrowingTaskGroup(of: Void.self) { group in
                            for _ in 0..<8 { group.addTask { try await live(api, tenant, times: 6) } }
                            for runner in [a, b] {
                                group.addTask {
                                    for _ in 0..<60 {
                                        _ = try await claim(runner)
                                        try await runner.reconcileOnce()
                                        _ = try await runner.pool.query("SELECT expire_timers()")
                                    }
                                }
                            }
                            try await group.waitForAll()
                        }
                    }
                    try await expectLoadsEqualSums(database)
                    try await expectNobodyOverbooked(database)
                }
            }
        }
    }

    private func live(_ api: PostgresPool, _ tenant: TestTenant, times: Int) async throws {
        for _ in 0..<times {
            let new = tenant.newSandbox()
            try await api.sandboxes.insert(new, by: Actor("test"))
            for change in [
                SandboxChange.stop(force: false), .resize(cpu: 1, memoryGib: 2, diskGib: 4), .start, .destroy,
            ] {
                do {
                    _ = try await api.sandboxes.apply(change, to: new.id, in: tenant.organization, by: Actor("test"))
                } catch let error as PostgresError where error.code == .runnerCapacity {}
            }
        }
    }

    @Test func stoppingFreesComputeAndStartingBooksItAnew() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(cpu: 1) { runner in
                let sandboxes = database.owner.sandboxes
                let first = try await database.makeSandbox(of: tenant)
                try await runner.report(first.id, .started)
                _ = try await sandboxes.apply(
                    .stop(force: false),
                    to: first.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                try await runner.report(first.id, .stopped)
                let second = try await database.makeSandbox(of: tenant)
                #expect(second.runnerID == runner.id)
                let error = await #expect(throws: PostgresError.self) {
                    _ = try await sandboxes.apply(.start, to: first.id, in: tenant.organization, by: Actor("test"))
                }
                #expect(error?.code == .runnerCapacity)
                #expect(error.map { StoreError($0).code } == .noRoom)
                try await expectLoadsEqualSums(database)
            }
        }
    }

    @Test func growingTheDiskOfAStoppedSandboxIsBooked() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(diskGib: 10) { runner in
                let sandboxes = database.owner.sandboxes
                let one = try await database.makeSandbox(of: tenant) { $0.diskGib = 4 }
                try await runner.report(one.id, .started)
                _ = try await sandboxes.apply(
                    .stop(force: false),
                    to: one.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                try await runner.report(one.id, .stopped)
                let isWritten = try await sandboxes.apply(
                    .resize(cpu: 1, memoryGib: 1, diskGib: 8),
                    to: one.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                #expect(isWritten)
                let load = try await database.owner.queryFirst("SELECT disk_gib, cpu FROM runner_load")
                #expect(try load!["disk_gib"] == 8)
                #expect(try load!["cpu"] == 0)
                await #expect(throws: PostgresError.self) {
                    _ = try await sandboxes.apply(
                        .resize(cpu: 1, memoryGib: 1, diskGib: 11),
                        to: one.id,
                        in: tenant.organization,
                        by: Actor("test")
                    )
                }
            }
        }
    }

    @Test func ceilingsHoldUnderParallelInserts() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.owner.execute("UPDATE organization SET sandbox_limit = 5")
            let refused = try await database.withPool(of: .api) { api in
                await withTaskGroup(of: Bool.self) { group in
                    for _ in 0..<30 {
                        group.addTask {
                            do {
                                try await api.sandboxes.insert(tenant.newSandbox(), by: Actor("test"))
                                return false
                            } catch let error as PostgresError {
                                return error.code == .organizationCeiling && error.hint != nil
                            } catch {
                                return false
                            }
                        }
                    }
                    return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
                }
            }
            #expect(refused == 25)
            #expect(try await count("sandbox", database) == 5)
        }
    }

    @Test func addressesAreNeverShared() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(slots: 3) { runner in
                let first = try await database.makeSandbox(of: tenant)
                for _ in 0..<2 { try await database.makeSandbox(of: tenant) }
                #expect(try await database.makeSandbox(of: tenant).runnerID == nil)
                _ = try await database.owner.sandboxes.apply(
                    .destroy,
                    to: first.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                try await runner.release(first.id)
                #expect(try await claim(runner).count == 1)
                let slots = try await database.owner.query("SELECT slot FROM sandbox_placement ORDER BY slot")
                #expect(try slots.map { try $0.decode("slot", as: Int.self) } == [1, 2, 3])
            }
        }
    }
}

func count(_ table: String, _ database: TestDatabase) async throws -> Int {
    try await database.owner.queryFirst("SELECT count(*) AS rows FROM \(identifier: table)")!["rows"]
}

func claim(_ runner: TestRunner, most: Int32 = 100) async throws -> [SandboxID] {
    try await runner.pool.query("SELECT claim_pending(\(most)) AS id").map { try $0["id"] }
}

/// The counters that bookings are decided on are what the bookings add up to.
func expectLoadsEqualSums(_ database: TestDatabase) async throws {
    let wrong = try await database.owner.query(
        """
        SELECT l.runner_id FROM runner_load l LEFT JOIN (
            SELECT runner_id, count(*) AS sandboxes, sum(cpu) AS cpu, sum(memory_gib) AS memory_gib, sum(disk_gib) AS disk_gib,
                sum(gpu) AS gpu FROM sandbox_placement GROUP BY runner_id) AS p ON p.runner_id = l.runner_id
        WHERE (l.sandboxes, l.cpu, l.memory_gib, l.disk_gib, l.gpu) IS DISTINCT FROM
            (coalesce(p.sandboxes, 0), coalesce(p.cpu, 0), coalesce(p.memory_gib, 0), coalesce(p.disk_gib, 0), coalesce(p.gpu, 0))
        """
    )
    #expect(wrong.isEmpty)
}

func expectNobodyOverbooked(_ database: TestDatabase) async throws {
    let over = try await database.owner.query(
        """
        SELECT FROM runner_load l JOIN runner_status s ON s.runner_id = l.runner_id
        WHERE l.cpu > s.cpu_capacity OR l.memory_gib > s.memory_capacity_gib OR l.disk_gib > s.disk_capacity_gib
        """
    )
    #expect(over.isEmpty)
}
