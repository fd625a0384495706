import Foundation
import Postgres
import Testing

@Suite struct PoolTests {
    @Test func neverMoreThanTheLimitAndEveryoneIsServed() async throws {
        try await TestDatabase.with { database in
            try await database.withPool(.init(connectionLimit: 3)) { pool in
                let inside = Shared((now: 0, most: 0))
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for _ in 0..<200 {
                        group.addTask {
                            try await pool.withConnection { connection in
                                inside.withLock {
                                    $0.now += 1
                                    $0.most = max($0.most, $0.now)
                                }
                                try await connection.execute("SELECT pg_sleep(0.005)")
                                inside.withLock { $0.now -= 1 }
                            }
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(inside.withLock { $0.most } == 3)
                let row = try await pool.queryFirst(
                    "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
                )
                #expect(try #require(row).decode("n", as: Int.self) <= 3)
                #expect(pool.status.waiting == 0)
                #expect(pool.status.inUse == 0)
            }
        }
    }

    @Test func waitersAreServedInOrder() async throws {
        try await TestDatabase.with { database in
            try await database.withPool(.init(connectionLimit: 1)) { pool in
                let order = Shared<[Int]>([])
                try await withThrowingTaskGroup(of: Void.self) { group in
                    try await pool.withConnection { _ in
                        for number in 0..<20 {
                            group.addTask {
                                try await pool.withConnection { _ in order.withLock { $0.append(number) } }
                            }
                            try await eventually("\(number) waits") { pool.status.waiting == number + 1 }
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(order.withLock { $0 } == Array(0..<20))
            }
        }
    }

    @Test func waitingHasADeadlineThatSaysWhy() async throws {
        try await TestDatabase.with { database in
            var limits = PostgresPoolConfiguration(connectionLimit: 2, minimumIdle: 2)
            limits.acquisitionDeadline = .milliseconds(150)
            try await database.withPool(limits) { pool in
                try await eventually("two are idle") { pool.status.idle == 2 }
                try await pool.withConnection { _ in
                    try await pool.withConnection { _ in
                        let error = try await postgresError { try await pool.execute("SELECT 1") }
                        #expect(error?.code == .acquisitionDeadlineExceeded)
                        #expect(error?.message.contains("limit 2, 2 in use") == true)
                        #expect(error?.message.contains("1 waiting") == true)
                    }
                }
                #expect(pool.status.waiting == 0)
                try await pool.execute("SELECT 1")
            }
        }
    }

    @Test func theLineOfWaitersIsBounded() async throws {
        try await TestDatabase.with { database in
            var limits = PostgresPoolConfiguration(connectionLimit: 1)
            limits.waiterLimit = 1
            try await database.withPool(limits) { pool in
                try await pool.withConnection { _ in
                    let waiting = Task { try await pool.execute("SELECT 1") }
                    try await eventually("one waits") { pool.status.waiting == 1 }
                    let error = try await postgresError { try await pool.execute("SELECT 1") }
                    #expect(error?.code == .tooManyWaiters)
                    waiting.cancel()
                    _ = await waiting.result
                }
            }
        }
    }

    @Test func aCancelledWaiterLeavesTheLine() async throws {
        try await TestDatabase.with { database in
            try await database.withPool(.init(connectionLimit: 1)) { pool in
                try await pool.withConnection { _ in
                    let waiting = Task { try await pool.execute("SELECT 1") }
                    try await eventually("it waits") { pool.status.waiting == 1 }
                    waiting.cancel()
                    await #expect(throws: CancellationError.self) { try await waiting.value }
                    #expect(pool.status.waiting == 0)
                }
                try await pool.execute("SELECT 1")
            }
        }
    }

    @Test func cancellingAtRandomLosesNoConnection() async throws {
        try await TestDatabase.with { database in
            try await database.withPool(.init(connectionLimit: 4)) { pool in
                await withTaskGroup(of: Void.self) { group in
                    for number in 0..<400 {
                        group.addTask {
                            let task = Task { try await pool.execute("SELECT pg_sleep(0.002)") }
                            if number.isMultiple(of: 2) {
                                try? await Task.sleep(for: .microseconds(Int.random(in: 0...20_000)))
                                task.cancel()
                            }
                            _ = await task.result
                        }
                    }
                }
                try await eventually("all are back") { pool.status.inUse == 0 && pool.status.waiting == 0 }
                for _ in 0..<20 { try await pool.execute("SELECT 1") }
                #expect(pool.status.idle + pool.status.opening + pool.status.closing <= 4)
            }
        }
    }

    @Test func terminatedConnectionsAreReplaced() async throws {
        try await TestDatabase.with { database in
            try await database.withPool(.init(connectionLimit: 4, minimumIdle: 4)) { pool in
                try await eventually("four are idle") { pool.status.idle == 4 }
                try await database.withServer { server in
                    let name = database.configuration.database!
                    try await server.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = \(name)"
                    )
                }
                try await eventually("a statement succeeds") {
                    (try? await pool.execute("SELECT 1")) != nil
                }
                try await eventually("four are idle again") { pool.status.idle == 4 }
            }
        }
    }

    @Test func aPoolStartedTooEarlyWaitsAndRecovers() async throws {
        try await TestDatabase.with { database in
            let name = database.configuration.database!
            try await database.withServer { server in
                try await server.execute("ALTER DATABASE \(identifier: name) ALLOW_CONNECTIONS false")
                var limits = PostgresPoolConfiguration(connectionLimit: 4)
                limits.acquisitionDeadline = .milliseconds(500)
                try await database.withPool(limits) { pool in
                    try await eventually("the error says what was tried") {
                        let error = try await postgresError { try await pool.execute("SELECT 1") }
                        #expect(error?.code == .acquisitionDeadlineExceeded)
                        return error?.message.contains("failed attempts to connect: postgres 55000") == true
                    }
                    try await server.execute("ALTER DATABASE \(identifier: name) ALLOW_CONNECTIONS true")
                    try await eventually("it connects") {
                        (try? await pool.execute("SELECT 1")) != nil
                    }
                }
            }
        }
    }

    @Test func aWrongPasswordIsToldAtOnce() async throws {
        try await TestDatabase.with { database in
            var configuration = database.configuration
            configuration.setPassword("wrong")
            let pool = PostgresPool(configuration, logger: quiet)
            async let running: Void = pool.run()
            let error = try await postgresError { try await pool.execute("SELECT 1") }
            #expect(error?.code == .invalidPassword)
            pool.shutDown()
            await running
        }
    }

    @Test func idleConnectionsAreCheckedAndReaped() async throws {
        try await TestDatabase.with { database in
            var limits = PostgresPoolConfiguration(connectionLimit: 4, minimumIdle: 1)
            limits.healthCheckInterval = .milliseconds(100)
            limits.idleLimit = .milliseconds(300)
            try await database.withPool(limits) { pool in
                await withTaskGroup(of: Void.self) { group in
                    for _ in 0..<4 { group.addTask { _ = try? await pool.execute("SELECT pg_sleep(0.1)") } }
                }
                try await eventually("one is left") { pool.status.idle == 1 && pool.status.closing == 0 }
                #expect(try await pool.queryFirst("SELECT 1 AS n")?["n"] == 1)
            }
        }
    }

    @Test func shutdownWaitsForTheLastBorrowerAndLeavesNothing() async throws {
        try await TestDatabase.with { database in
            let pool = PostgresPool(database.configuration, logger: quiet)
            let hasEnded = Shared(false)
            let running = Task {
                await pool.run()
                hasEnded.withLock { $0 = true }
            }
            try await pool.withConnection { connection in
                running.cancel()
                let late = try await postgresError { try await pool.execute("SELECT 1") }
                #expect(late?.code == .poolClosed)
                #expect(try await connection.queryFirst("SELECT 1 AS n")?["n"] == 1)
                #expect(!hasEnded.withLock { $0 })
            }
            await running.value
            #expect(pool.status == PostgresPoolStatus(limit: 10, idle: 0, inUse: 0, opening: 0, closing: 0, waiting: 0))
        }
    }

    @Test func shutdownDoesNotWaitForeverForABorrower() async throws {
        try await TestDatabase.with { database in
            var limits = PostgresPoolConfiguration()
            limits.shutdownGrace = .milliseconds(100)
            let pool = PostgresPool(database.configuration, limits: limits, logger: quiet)
            let running = Task { await pool.run() }
            try await pool.withConnection { connection in
                pool.shutDown()
                await running.value
                #expect(!connection.isOpen)
            }
        }
    }
}
