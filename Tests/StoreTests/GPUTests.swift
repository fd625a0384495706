import Domain
import Postgres
import Store
import TestSupport
import Testing

/// Tenants never share a GPU: a sandbox gets devices at its placement, and no other that runs has one of them.
@Suite struct GPUTests {
    @Test func eachGetsDevicesOfItsOwn() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(gpu: 4, gpuType: "H100") { runner in
                var made: [SandboxRecord] = []
                for count in [1, 2, 1] { made.append(try await database.makeSandbox(of: tenant) { $0.gpu = count }) }
                #expect(try await devices(made, runner) == [[0], [1, 2], [3]])
                #expect(try await database.makeSandbox(of: tenant) { $0.gpu = 1 }.runnerID == nil)
                #expect(try await devices([database.makeSandbox(of: tenant)], runner) == [[]])
                _ = try await change(.destroy, made[1], database, tenant)
                try await runner.release(made[1].id)
                let claimed = try await claim(runner)
                #expect(claimed.count == 1)
                let row = try await RunnerQueries(runner.pool).sandbox(claimed[0])
                #expect(row?.gpuDevices == [1])
            }
        }
    }

    @Test func parallelBookingsShareNone() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(gpu: 8) { runner in
                try await database.withPool(of: .api) { api in
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for _ in 0..<12 {
                            group.addTask {
                                var new = tenant.newSandbox()
                                new.gpu = 1
                                try await api.sandboxes.insert(new, by: Actor("test"))
                            }
                        }
                        try await group.waitForAll()
                    }
                }
                let given = try await RunnerQueries(runner.pool).sandboxes().flatMap(\.gpuDevices)
                #expect(given.sorted() == Array(0..<8))
            }
        }
    }

    /// A container keeps its devices: it is not started while another has one of them.
    @Test func aStoppedOneWaitsUntilItsDeviceIsFree() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(gpu: 2) { runner in
                let first = try await database.makeSandbox(of: tenant) { $0.gpu = 1 }
                try await runner.report(first.id, .started)
                try await stop(first, runner, database, tenant)
                let second = try await database.makeSandbox(of: tenant) { $0.gpu = 1 }
                #expect(try await devices([first, second], runner) == [[0], [1]], "the one that nobody wants back")
                let third = try await database.makeSandbox(of: tenant) { $0.gpu = 1 }
                #expect(try await devices([third], runner) == [[0]])
                let error = await #expect(throws: PostgresError.self) {
                    _ = try await change(.start, first, database, tenant)
                }
                #expect(error?.code == .runnerCapacity)
                try await runner.report(second.id, .started)
                try await stop(second, runner, database, tenant)
                let inUse = await #expect(throws: PostgresError.self) {
                    _ = try await change(.start, first, database, tenant)
                }
                #expect(inUse?.message.contains("GPUs (0 on its runner) are in use") == true)
                try await runner.report(third.id, .started)
                try await stop(third, runner, database, tenant)
                _ = try await change(.start, first, database, tenant)
                #expect(try await devices([first], runner) == [[0]])
            }
        }
    }

    /// What failed may still run for a moment.
    @Test func aFailedOneKeepsItsDeviceUntilItIsStopped() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner(gpu: 1) { runner in
                let one = try await database.makeSandbox(of: tenant) { $0.gpu = 1 }
                try await runner.report(one.id, .error, error: "it ended too often")
                #expect(try await database.makeSandbox(of: tenant) { $0.gpu = 1 }.runnerID == nil)
                try await stop(one, runner, database, tenant)
                #expect(try await claim(runner).count == 1)
                try await expectLoadsEqualSums(database)
            }
        }
    }

    private func stop(_ one: SandboxRecord, _ runner: TestRunner, _ database: TestDatabase, _ tenant: TestTenant)
        async throws
    {
        _ = try await change(.stop(force: false), one, database, tenant)
        try await runner.report(one.id, .stopped)
    }

    private func change(
        _ change: SandboxChange,
        _ one: SandboxRecord,
        _ database: TestDatabase,
        _ tenant: TestTenant
    ) async throws -> Bool {
        try await database.owner.sandboxes.apply(change, to: one.id, in: tenant.organization, by: Actor("test"))
    }

    private func devices(_ sandboxes: [SandboxRecord], _ runner: TestRunner) async throws -> [[Int]] {
        var all: [[Int]] = []
        for one in sandboxes { all.append(try await RunnerQueries(runner.pool).sandbox(one.id)!.gpuDevices) }
        return all
    }
}
