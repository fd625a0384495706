import Foundation
import Postgres
import Testing

/// Counts the whole process's descriptors and threads, so it runs in a process of its own.
@Suite struct LeakTests {
    @Test(.timeLimit(.minutes(5))) func twoHundredConnectionsLeaveNoDescriptorNoThreadAndNoBackend() async {
        await #expect(processExitsWith: .success) {
            // An error that is thrown here would only be seen as a trap of the child; an issue says what was wrong.
            do { try await Self.leaveNothing() } catch { Issue.record("\(error)") }
        }
    }

    private static func leaveNothing() async throws {
        try await TestDatabase.with { database in
            try await connectAndClose(database, times: 5)  // what is made once is not a leak
            let before = try census()
            try await connectAndClose(database, times: 200)
            var now = before
            do {
                try await eventually("descriptors and threads are gone") {
                    now = try census()
                    return now.descriptors <= before.descriptors + runtimeSlack
                        && now.threads <= before.threads + runtimeSlack
                }
            } catch { Issue.record("before \(before), now \(now)") }
            try await database.withServer { server in
                let name = database.configuration.database
                try await eventually("all backends are gone") {
                    try await server.query(
                        "SELECT FROM pg_stat_activity WHERE datname = \(name) AND backend_type = 'client backend'"
                    ).isEmpty
                }
            }
        }
    }

    /// Threads and descriptors that Swift's executor and the test library may add late, on their own account. A connection
    /// that leaked would be counted two hundred times, one that was refused twenty times.
    private static let runtimeSlack = 8

    private static func connectAndClose(_ database: TestDatabase, times: Int) async throws {
        for number in 0..<times {
            let connection = try await PostgresConnection.connect(database.configuration, logger: quiet)
            try await connection.execute("SELECT \(number)")
            _ = try await postgresError {
                try await connection.execute("SELECT pg_sleep(9)", deadline: .milliseconds(number % 50 == 0 ? 1 : 0))
            }
            if number.isMultiple(of: 2) { await connection.close() }  // the others close with their last reference
        }
        var wrong = database.configuration
        wrong.setPassword("wrong")
        for _ in 0..<times / 10 {
            _ = try await postgresError { _ = try await PostgresConnection.connect(wrong, logger: quiet) }
        }
    }

    private static func census() throws -> (descriptors: Int, threads: Int) {
        func count(_ directory: String) throws -> Int {
            try FileManager.default.contentsOfDirectory(atPath: directory).count
        }
        return (try count("/proc/self/fd"), try count("/proc/self/task"))
    }
}
