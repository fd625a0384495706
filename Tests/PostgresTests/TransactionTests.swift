import Foundation
import Postgres
import Testing

@Suite struct TransactionTests {
    private struct Refused: Error {}

    private func withTable<Value: Sendable>(_ body: (PostgresPool) async throws -> Value) async throws -> Value {
        try await TestDatabase.with { database in
            try await database.withPool { pool in
                try await pool.execute("CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL)")
                try await pool.execute("INSERT INTO account VALUES (1, 100), (2, 0)")
                return try await body(pool)
            }
        }
    }

    private func amount(_ pool: PostgresPool, _ id: Int) async throws -> Int? {
        try await pool.queryFirst("SELECT amount FROM account WHERE id = \(id)")?["amount"]
    }

    @Test func commitsWhatReturnsAndRollsBackWhatThrows() async throws {
        try await withTable { pool in
            let answer = try await pool.withTransaction { connection in
                try await connection.execute("UPDATE account SET amount = 50 WHERE id = 1")
                return "done"
            }
            #expect(answer == "done")
            #expect(try await amount(pool, 1) == 50)
            await #expect(throws: Refused.self) {
                try await pool.withTransaction { connection in
                    try await connection.execute("UPDATE account SET amount = 0 WHERE id = 1")
                    throw Refused()
                }
            }
            #expect(try await amount(pool, 1) == 50)
            #expect(pool.status.inUse == 0)
        }
    }

    @Test func cancellationRollsBack() async throws {
        try await withTable { pool in
            let stuck = Task {
                try await pool.withTransaction { connection in
                    try await connection.execute("UPDATE account SET amount = 0 WHERE id = 1")
                    try await connection.execute("SELECT pg_sleep(60)")
                }
            }
            try await eventually("it sleeps") {
                try await !pool.query(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
                ).isEmpty
            }
            stuck.cancel()
            await #expect(throws: CancellationError.self) { try await stuck.value }
            #expect(
                try await pool.execute("UPDATE account SET amount = amount + 1 WHERE id = 1", deadline: .seconds(20))
                    == 1
            )
            #expect(try await amount(pool, 1) == 101)
        }
    }

    @Test func serializationFailuresAreTriedAgain() async throws {
        try await withTable { pool in
            let tasks = 8
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<tasks {
                    group.addTask {
                        // More attempts than one transaction has: what is shown is that losers lose nothing.
                        while true {
                            do {
                                return try await pool.withTransaction(isolation: .serializable) { connection in
                                    let row = try await connection.queryFirst("SELECT amount FROM account WHERE id = 1")
                                    let amount: Int = try row!["amount"]
                                    try await connection.execute(
                                        "UPDATE account SET amount = \(amount - 1) WHERE id = 1"
                                    )
                                }
                            } catch let error as PostgresError where error.code == .serializationFailure {}
                        }
                    }
                }
                try await group.waitForAll()
            }
            #expect(try await amount(pool, 1) == 100 - tasks)
        }
    }

    @Test func aLostRaceRunsTheBodyAgainAndStopsAtTheLimit() async throws {
        try await withTable { pool in
            var runs = 0
            let answer = try await pool.withTransaction { connection in
                runs += 1
                if runs < 3 { try await connection.execute("DO $$BEGIN RAISE SQLSTATE '40001'; END$$") }
                return runs
            }
            #expect(answer == 3)
            runs = 0
            let error = try await postgresError {
                try await pool.withTransaction { connection in
                    runs += 1
                    try await connection.execute("DO $$BEGIN RAISE SQLSTATE '40P01'; END$$")
                }
            }
            #expect(error?.code == .deadlockDetected)
            #expect(runs == PostgresConnection.transactionAttemptLimit)
        }
    }

    @Test func readOnlyAndNestedAndSwallowedErrors() async throws {
        try await withTable { pool in
            let written = try await postgresError {
                _ = try await pool.withTransaction(readOnly: true) { try await $0.execute("DELETE FROM account") }
            }
            #expect(written?.code == .readOnlyTransaction)
            let nested = try await postgresError {
                try await pool.withTransaction { outer in try await outer.withTransaction { _ in } }
            }
            #expect(nested?.code == .nestedTransaction)
            let swallowed = try await postgresError {
                try await pool.withTransaction { connection in
                    try await connection.execute("UPDATE account SET amount = 7")
                    _ = try? await connection.execute("SELECT 1/0")
                }
            }
            #expect(swallowed?.code == .rolledBack)
            #expect(try await amount(pool, 1) == 100)
        }
    }

    @Test func aTransactionLeftOpenDoesNotReachTheNextBorrower() async throws {
        try await withTable { pool in
            let pid = try await pool.withConnection { connection in
                try await connection.execute(script: "BEGIN; UPDATE account SET amount = 0")
                return connection.backendPID
            }
            #expect(try await amount(pool, 1) == 100)
            #expect(try await pool.withConnection { $0.backendPID } != pid)
        }
    }
}
