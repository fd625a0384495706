import Foundation
import Logging
import Postgres
import Synchronization

let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// A database of its own for a test, on the real server, dropped at the end.
struct TestDatabase: Sendable {
    let configuration: PostgresConfiguration
    /// As superuser, in the server's own database.
    let server: PostgresConfiguration

    static func serverConfiguration() throws -> PostgresConfiguration {
        guard let url = ProcessInfo.processInfo.environment["MARTLET_TEST_DATABASE_URL"] else {
            throw MissingPart(description: "MARTLET_TEST_DATABASE_URL is not set: run the tests with ops/test")
        }
        return try PostgresConfiguration(url: url, applicationName: "martlet-tests")
    }

    static func with<Value>(_ body: (TestDatabase) async throws -> Value) async throws -> Value {
        let server = try serverConfiguration()
        let name = "martlet_pg_" + UUID().uuidString.lowercased().replacingOccurrences(of: "-", with: "")
        var own = server
        own.database = name
        try await asSuperuser(server) { try await $0.execute("CREATE DATABASE \(identifier: name)") }
        let database = TestDatabase(configuration: own, server: server)
        do {
            let value = try await body(database)
            try await database.drop(name)
            return value
        } catch {
            try? await database.drop(name)
            throw error
        }
    }

    private func drop(_ name: String) async throws {
        try await Self.asSuperuser(server) { try await $0.execute("DROP DATABASE \(identifier: name) WITH (FORCE)") }
    }

    /// A connection to this database.
    @discardableResult
    func withConnection<Value>(_ body: (PostgresConnection) async throws -> Value) async throws -> Value {
        try await Self.asSuperuser(configuration, body)
    }

    /// A connection to the server's own database.
    @discardableResult
    func withServer<Value>(_ body: (PostgresConnection) async throws -> Value) async throws -> Value {
        try await Self.asSuperuser(server, body)
    }

    /// A pool on this database, with its `run()` running meanwhile.
    func withPool<Value: Sendable>(
        _ limits: PostgresPoolConfiguration = .init(),
        _ body: (PostgresPool) async throws -> Value
    ) async throws -> Value {
        let pool = PostgresPool(configuration, limits: limits, logger: quiet)
        async let running: Void = pool.run()
        do {
            let value = try await body(pool)
            pool.shutDown()
            await running
            return value
        } catch {
            pool.shutDown()
            await running
            throw error
        }
    }

    @discardableResult
    private static func asSuperuser<Value>(
        _ configuration: PostgresConfiguration,
        _ body: (PostgresConnection) async throws -> Value
    ) async throws -> Value {
        let connection = try await PostgresConnection.connect(configuration, logger: quiet)
        do {
            let value = try await body(connection)
            await connection.close()
            return value
        } catch {
            await connection.close()
            throw error
        }
    }
}

struct MissingPart: Error, CustomStringConvertible { let description: String }

/// Polls until it holds; throws when it does not within the time.
func eventually(
    _ what: String,
    within limit: Duration = .seconds(60),
    _ holds: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + limit
    while try await !holds() {
        guard ContinuousClock.now < deadline else { throw MissingPart(description: "not within \(limit): \(what)") }
        try await Task.sleep(for: .milliseconds(10))
    }
}

/// What it throws, if that is a `PostgresError`.
func postgresError(_ body: () async throws -> Void) async throws -> PostgresError? {
    do {
        try await body()
        return nil
    } catch let error as PostgresError {
        return error
    }
}

/// A value that several tasks of a test share.
final class Shared<Value: Sendable>: Sendable {
    private let value: Mutex<Value>
    init(_ value: Value) { self.value = Mutex(value) }
    @discardableResult
    func withLock<Result: Sendable>(_ body: (inout Value) -> Result) -> Result { value.withLock { body(&$0) } }
}
