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

    /// A runner may let go of what is still wanted: it waits again, for whoever has room.
    @Test func whatIsReleasedAliveWaitsAgain() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let one = try await database.makeSandbox(of: tenant)
                #expect(try await claim(runner) == [])
                #expect(try await runner.release(one.id))
                try await expectTheUnplacedAreQueued(database)
                #expect(try await claim(runner) == [one.id])
                try await expectTheUnplacedAreQueued(database)
                #expect(try await runner.release(one.id))
                try await database.owner.execute("DELETE FROM sandbox")
                #expect(try await count("sandbox_queue", database) == 0)
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
                    try await expectWhatRunsIsBooked(database)
                    try await expectTheUnplacedAreQueued(database)
                }
            }
        }
    }

    /// Held up in the middle of its claim, a runner goes on with what it read before; another has taken that meanwhile.
    @Test func twoClaimersTakeNothingFromEachOther() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            for _ in 0..<40 { try await database.makeSandbox(of: tenant) }
            try await database.withRunner("slow") { slow in
                try await database.withRunner("fast") { fast in
                    let (early, claiming) = try await database.owner.withTransaction { transaction in
                        try await transaction.execute(
                            "SELECT FROM runner_load WHERE runner_id = \(slow.id) FOR UPDATE"
                        )
                        let claiming = Task { try await claim(slow) }  // owned: awaited below
                        try await untilSomebodyWaits(database)
                        return (try await claim(fast), claiming)
                    }
                    let late = try await claiming.value
                    #expect(!early.isEmpty && !late.isEmpty)
                    #expect(Set(early).isDisjoint(with: late))
                    #expect(early.count + late.count == 40)
                    let moved = try await database.owner.query("SELECT FROM sandbox_placement WHERE epoch > 1")
                    #expect(moved.isEmpty)
                    try await expectLoadsEqualSums(database)
                }
            }
        }
    }

    /// A stop is reported while a start is on its way that found the compute still booked.
    @Test func aStartIsNotUnbookedByTheStopBeforeIt() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(cpu: 1) { runner in
                let one = try await database.makeSandbox(of: tenant)
                try await runner.report(one.id, .started)
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'stopped'")
                let reporting = try await database.owner.withTransaction { transaction in
                    try await transaction.execute("UPDATE sandbox SET desired_state = 'started'")
                    let reporting = Task { try await runner.report(one.id, .stopped) }  // owned: awaited below
                    try await untilSomebodyWaits(database)
                    return reporting
                }
                #expect(try await reporting.value)
                try await expectWhatRunsIsBooked(database)
                let booked = try await database.owner.queryFirst("SELECT cpu FROM sandbox_placement")
                #expect(try booked!["cpu"] == 1)
            }
        }
    }

    @Test func whatNoRunnerCouldHoldIsRefused() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            func refusal(_ adjust: @escaping @Sendable (inout NewSandbox) -> Void) async -> StoreError? {
                let error = await #expect(throws: PostgresError.self) {
                    try await database.makeSandbox(of: tenant, adjust)
                }
                return error.map { StoreError($0) }
            }
            #expect(
                try await database.makeSandbox(of: tenant) { $0.cpu = 40 }.state == .creating,
                "the first runner is about to come"
            )
            try await database.withRunner("wide", cpu: 8, memoryGib: 4) { _ in
                try await database.withRunner("deep", cpu: 2, memoryGib: 64, diskGib: 100) { deep in
                    let wide = await refusal { $0.cpu = 9 }
                    #expect(wide?.code == .invalidValue)
                    #expect(
                        wide?.message
                            == "cpu is 9, but the largest runner of region test may promise no more than 8 CPUs"
                    )
                    #expect(await refusal { $0.memoryGib = 65 }?.message.contains("memory is 65,") == true)
                    #expect(await refusal { $0.diskGib = 1025 }?.message.contains("disk is 1025,") == true)
                    #expect(await refusal { $0.gpu = 1 }?.message.contains("gpu is 1,") == true)
                    let both = await refusal {
                        $0.cpu = 8
                        $0.memoryGib = 64
                    }
                    #expect(both?.message.contains("together: 8 CPUs, 64 GiB of memory") == true)
                    try await database.makeSandbox(of: tenant) { $0.cpu = 8 }
                    #expect(
                        try await database.makeSandbox(of: tenant) { $0.cpu = 8 }.runnerID == nil,
                        "full is not too small"
                    )
                    try await deep.renewLease(seconds: 0)
                    try await database.makeSandbox(of: tenant) { $0.memoryGib = 64 }
                }
            }
        }
    }

    @Test func noMoreRunThanABridgeTakes() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let first = try await database.makeSandbox(of: tenant)
                try await runner.report(first.id, .started)
                _ = try await database.owner.sandboxes.apply(
                    .stop(force: false),
                    to: first.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                try await runner.report(first.id, .stopped)
                try await expectLoadsEqualSums(database)
                try await database.owner.execute("UPDATE runner_load SET running = running_limit() - 1")
                #expect(try await database.makeSandbox(of: tenant).runnerID == runner.id)
                #expect(try await database.makeSandbox(of: tenant).runnerID == nil)
                let error = await #expect(throws: PostgresError.self) {
                    try await database.owner.execute("UPDATE sandbox SET desired_state = 'started'")
                }
                #expect(error?.code == .runnerCapacity)
                #expect(error?.message.contains("1023 of 1023 running sandboxes") == true)
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
            SELECT runner_id, count(*) AS sandboxes, count(*) FILTER (WHERE cpu > 0) AS running, sum(cpu) AS cpu, sum(memory_gib) AS memory_gib, sum(disk_gib) AS disk_gib,
                sum(gpu) AS gpu FROM sandbox_placement GROUP BY runner_id) AS p ON p.runner_id = l.runner_id
        WHERE (l.sandboxes, l.running, l.cpu, l.memory_gib, l.disk_gib, l.gpu) IS DISTINCT FROM
            (coalesce(p.sandboxes, 0), coalesce(p.running, 0), coalesce(p.cpu, 0), coalesce(p.memory_gib, 0), coalesce(p.disk_gib, 0), coalesce(p.gpu, 0))
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

/// What is reported to run, and is to run, is paid for.
func expectWhatRunsIsBooked(_ database: TestDatabase) async throws {
    let free = try await database.owner.query(
        """
        SELECT FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
        WHERE (t.state = 'started' OR s.desired_state = 'started' AND t.state <> 'error')
            AND (p.cpu, p.memory_gib, p.gpu) IS DISTINCT FROM (s.cpu, s.memory_gib, s.gpu)
        """
    )
    #expect(free.isEmpty)
}

/// Whoever lives and has no runner is in the queue, and nobody else.
func expectTheUnplacedAreQueued(_ database: TestDatabase) async throws {
    let wrong = try await database.owner.query(
        """
        SELECT FROM sandbox s LEFT JOIN sandbox_placement p ON p.sandbox_id = s.id LEFT JOIN sandbox_queue q ON q.sandbox_id = s.id
        WHERE (s.desired_state <> 'destroyed' AND p.sandbox_id IS NULL) <> (q.sandbox_id IS NOT NULL)
        """
    )
    #expect(wrong.isEmpty)
}

/// Returns once some statement in the database waits for another's lock.
func untilSomebodyWaits(_ database: TestDatabase) async throws {
    let deadline = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < deadline {
        let waiting = try await database.owner.queryFirst(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        if waiting != nil { return }
        try await Task.sleep(for: .milliseconds(5))
    }
    Issue.record("nobody waits for a lock")
}
