import Foundation
import Postgres
import Testing

@Suite struct ConnectionTests {
    @Test func constraintErrorsSayWhichAndHideTheRow() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                try await connection.execute(
                    script:
                        "CREATE TABLE t (mail text CONSTRAINT one_mail UNIQUE, age int CONSTRAINT grown CHECK (age > 17))"
                )
                try await connection.execute("INSERT INTO t VALUES (\("secret@example.org"), 20)")
                let twice = try await postgresError {
                    try await connection.execute("INSERT INTO t VALUES (\("secret@example.org"), 20)")
                }
                #expect(twice?.code == .uniqueViolation)
                #expect(twice?.constraint == "one_mail")
                #expect(twice?.table == "t")
                #expect(twice?.retry == .never)
                #expect(twice?.detail?.contains("secret") == true)
                #expect("\(twice!)".contains("secret") == false)
                let young = try await postgresError { try await connection.execute("INSERT INTO t VALUES (\("x"), 3)") }
                #expect(young?.code == .checkViolation)
                #expect(young?.constraint == "grown")
                let wrong = try await postgresError { try await connection.execute("SELECT \("secret word")::uuid") }
                #expect(wrong?.code.sqlState == "22P02")
                #expect("\(wrong!)".contains("secret") == false)
                let syntax = try await postgresError { try await connection.execute("SELEC 1") }
                #expect(syntax?.code == .syntaxError)
                #expect(syntax?.statement == "SELEC 1")
                #expect(connection.isOpen)
            }
        }
    }

    @Test func theDeadlineCancelsOnTheServerAndTheConnectionLivesOn() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let began = ContinuousClock.now
                let error = try await postgresError {
                    try await connection.execute("SELECT pg_sleep(60)", deadline: .milliseconds(200))
                }
                #expect(error?.code == .deadlineExceeded)
                #expect(error?.retry == .retry(after: .seconds(1)))
                #expect(ContinuousClock.now - began < .seconds(20))
                try await database.withServer { server in
                    let row = try await server.queryFirst(
                        "SELECT state FROM pg_stat_activity WHERE pid = \(connection.backendPID)"
                    )
                    #expect(try row?.decode("state", as: String.self) == "idle")
                }
                for number in 0..<200 {
                    #expect(try await connection.queryFirst("SELECT \(number)::int8 AS n")?["n"] == number)
                }
            }
        }
    }

    @Test func cancellingTheTaskCancelsOnTheServer() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let pid = connection.backendPID
                try await database.withServer { server in
                    func state() async throws -> String? {
                        try await server.queryFirst("SELECT state FROM pg_stat_activity WHERE pid = \(pid)")?["state"]
                    }
                    let sleeping = Task { try await connection.execute("SELECT pg_sleep(60)") }
                    try await eventually("the statement runs") { try await state() == "active" }
                    sleeping.cancel()
                    await #expect(throws: CancellationError.self) { try await sleeping.value }
                    #expect(try await state() == "idle")
                }
                #expect(try await connection.queryFirst("SELECT 1 AS n")?["n"] == 1)
            }
        }
    }

    @Test func aCancelledTaskSendsNothing() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                try await connection.execute("CREATE TABLE t (n int)")
                let late = Task {
                    withUnsafeCurrentTask { $0?.cancel() }
                    try await connection.execute("INSERT INTO t VALUES (1)")
                }
                await #expect(throws: CancellationError.self) { try await late.value }
                #expect(try await connection.query("SELECT n FROM t").isEmpty)
            }
        }
    }

    @Test func statementsWaitTheirTurnAndTheirDeadlineCountsMeanwhile() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let pid = connection.backendPID
                let first = Task { try await connection.execute("SELECT pg_sleep(6)") }
                try await database.withServer { server in
                    try await eventually("the first runs") {
                        try await !server.query("SELECT FROM pg_stat_activity WHERE pid = \(pid) AND state = 'active'")
                            .isEmpty
                    }
                }
                let error = try await postgresError {
                    try await connection.execute("SELECT 1", deadline: .milliseconds(1))
                }
                #expect(error?.code == .deadlineExceeded)
                _ = try await first.value
                #expect(connection.isOpen)
            }
        }
    }

    @Test func manyTasksShareOneConnection() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                try await withThrowingTaskGroup(of: Bool.self) { group in
                    for number in 0..<500 {
                        group.addTask { try await connection.queryFirst("SELECT \(number)::int8 AS n")?["n"] == number }
                    }
                    for try await isRight in group { #expect(isRight) }
                }
            }
        }
    }

    @Test func theStatementCacheIsBoundedAndSurvivesSchemaChanges() async throws {
        try await TestDatabase.with { database in
            var configuration = database.configuration
            configuration.preparedStatementLimit = 8
            let connection = try await PostgresConnection.connect(configuration, logger: quiet)
            for number in 0..<50 { try await connection.execute("SELECT \(unescaped: "\(number)"), \(number)") }
            let count = try await connection.queryFirst("SELECT count(*) AS n FROM pg_prepared_statements")
            #expect(try #require(count).decode("n", as: Int.self) <= 8)

            try await connection.execute("CREATE TABLE t (a int)")
            try await connection.execute("INSERT INTO t VALUES (1)")
            _ = try await connection.query("SELECT * FROM t")
            try await connection.execute("ALTER TABLE t ADD b int DEFAULT 2")
            #expect(try await connection.queryFirst("SELECT * FROM t")?["b"] == 2)
            try await connection.execute(script: "DISCARD ALL")
            #expect(try await connection.queryFirst("SELECT * FROM t")?["b"] == 2)
            // The same text with other types is another statement.
            #expect(try await connection.queryFirst("SELECT \(1) AS v")?["v"] == 1)
            #expect(try await connection.queryFirst("SELECT \(true) AS v")?["v"] == true)
            await connection.close()
        }
    }

    @Test func largeValuesGoBothWays() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let bytes = [UInt8](repeating: 7, count: 4 << 20)
                let row = try #require(try await connection.queryFirst("SELECT length(\(bytes)) AS n, \(bytes) AS b"))
                #expect(try row["n"] == bytes.count)
                #expect(try row.decode("b", as: [UInt8].self) == bytes)
                let rows = try await connection.query("SELECT n FROM generate_series(1, 100000) AS n")
                #expect(rows.count == 100_000)
                #expect(try rows[99_999]["n"] == 100_000)
            }
        }
    }

    @Test func aTerminatedConnectionSaysSoAndNoticesWhileIdle() async throws {
        try await TestDatabase.with { database in
            let connection = try await PostgresConnection.connect(database.configuration, logger: quiet)
            let pid = connection.backendPID
            async let sleeping = postgresError { try await connection.execute("SELECT pg_sleep(60)") }
            try await database.withServer { server in
                try await eventually("the statement runs") {
                    try await !server.query("SELECT FROM pg_stat_activity WHERE pid = \(pid) AND state = 'active'")
                        .isEmpty
                }
                try await server.execute("SELECT pg_terminate_backend(\(pid))")
            }
            #expect(try await sleeping?.code == .adminShutdown)
            #expect(!connection.isOpen)
            let after = try await postgresError { try await connection.execute("SELECT 1") }
            #expect(after?.code == .connectionClosed)
            await connection.close()
            await connection.close()

            let idle = try await PostgresConnection.connect(database.configuration, logger: quiet)
            try await database.withServer { try await $0.execute("SELECT pg_terminate_backend(\(idle.backendPID))") }
            try await eventually("the idle connection notices") { !idle.isOpen }
        }
    }

    @Test func refusalsCarryTheServersCode() async throws {
        var wrong = try TestDatabase.serverConfiguration()
        wrong.setPassword("wrong-secret")
        let password = try await postgresError { _ = try await PostgresConnection.connect(wrong, logger: quiet) }
        #expect(password?.code == .invalidPassword)
        #expect(password?.retry == .never)
        #expect("\(password!)".contains("secret") == false)

        var nowhere = try TestDatabase.serverConfiguration()
        nowhere.database = "no_such_database"
        let database = try await postgresError { _ = try await PostgresConnection.connect(nowhere, logger: quiet) }
        #expect(database?.code == .undefinedDatabase)

        let closed = try PostgresConfiguration(url: "postgres://postgres@127.0.0.1:1/postgres")
        let refused = try await postgresError { _ = try await PostgresConnection.connect(closed, logger: quiet) }
        #expect(refused?.code == .connectionFailed)
        #expect(refused?.retry == .retry(after: .seconds(1)))
    }

    @Test func connectingHasADeadline() async throws {
        let silent = try SilentListener()
        var configuration = try PostgresConfiguration(
            url: "postgres://postgres@127.0.0.1:\(silent.port)/postgres?sslmode=disable"
        )
        configuration.connectDeadline = .milliseconds(200)
        let frozen = configuration
        let error = try await postgresError { _ = try await PostgresConnection.connect(frozen, logger: quiet) }
        #expect(error?.code == .connectionFailed)
        #expect(error?.message.contains("0.2 seconds") == true)
    }

    @Test func copyIsRefusedAndClosesTheConnection() async throws {
        try await TestDatabase.with { database in
            let connection = try await PostgresConnection.connect(database.configuration, logger: quiet)
            let error = try await postgresError { try await connection.execute(script: "COPY (SELECT 1) TO STDOUT") }
            #expect(error?.code == .unsupported)
            #expect(!connection.isOpen)
        }
    }

    @Test func urlsAreReadByLibPQAndNeverShown() throws {
        let configuration = try PostgresConfiguration(
            url: "postgres://us%40er:p%2Fw-secret@db.example:6000/my%20db?sslmode=disable"
        )
        #expect(configuration.user == "us@er")
        #expect(configuration.database == "my db")
        #expect(configuration.applicationName == "martlet")
        #expect("\(configuration)" == "us@er@db.example:6000/my db")
        #expect(!String(reflecting: configuration).contains("secret"))
        for url in ["postgres://u:secret%zz@h/d", "postgres://u:secret@h:5432x/d?y", "postgres://[secret", "secret=1"] {
            do {
                _ = try PostgresConfiguration(url: url)
                Issue.record("\(url) was accepted")
            } catch let error as PostgresError {
                #expect(error.code == .invalidConfiguration)
                #expect(!"\(error)".contains("secret"), "\(error)")
            }
        }
    }
}

/// Accepts connections (the kernel does) and never says a word.
final class SilentListener: Sendable {
    let port: Int
    private let descriptor: Int32

    /// - Parameter port: 0 for any that is free.
    init(port wanted: UInt16 = 0) throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        self.descriptor = descriptor
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = wanted.bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                bind(descriptor, pointer, length) | listen(descriptor, 8) | getsockname(descriptor, pointer, &length)
            }
        }
        guard status == 0 else {
            close(descriptor)
            throw MissingPart(description: "no listening socket on port \(wanted)")
        }
        port = Int(UInt16(bigEndian: address.sin_port))
    }

    deinit { close(descriptor) }
}
