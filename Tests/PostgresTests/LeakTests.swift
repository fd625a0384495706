import Foundation
import Postgres
import Testing

/// Counts the whole process's descriptors and threads, so it runs in a process of its own.
@Suite struct LeakTests {
    @Test(.timeLimit(.minutes(2))) func twoHundredConnectionsLeaveNoDescriptorNoThreadAndNoBackend() async {
        let child = await #expect(processExitsWith: .success, observing: [\.standardErrorContent]) {
            try await TestDatabase.with { database in
                try await Self.connectAndClose(database, times: 5)  // what is made once is not a leak
                let before = try Self.census()
                try await Self.connectAndClose(database, times: 200)
                var now = before
                do {
                    try await eventually("descriptors and threads are gone") {
                        now = try Self.census()
                        return now.descriptors <= before.descriptors && now.threads <= before.threads
                    }
                } catch { throw MissingPart(description: "before \(before), now \(now)") }
                try await database.withServer { server in
                    let name = database.configuration.database
                    try await eventually("all backends are gone") {
                        try await server.query("SELECT FROM pg_stat_activity WHERE datname = \(name)").isEmpty
                    }
                }
            }
        }
        if let said = child?.standardErrorContent, !said.isEmpty {
            print(String(decoding: said.prefix(1000), as: UTF8.self))
        }
    }

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
