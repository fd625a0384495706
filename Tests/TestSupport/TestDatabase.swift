import FoundationEssentials
package import Postgres
package import Store

/// A database of its own for one test: a clone of a migrated template, with logins of its own, dropped afterwards.
///
///     try await TestDatabase.with { database in
///         let tenant = try await database.makeTenant()
///         ...
///     }
package final class TestDatabase: Sendable {
    /// The name of the database, which its roles' names begin with too.
    package let name: String
    /// As the owner, who may do anything.
    package let ownerConfiguration: PostgresConfiguration
    /// Connections as the owner.
    package let owner: PostgresPool
    private let roles = RoleList()

    private init(name: String, _ configuration: PostgresConfiguration) {
        self.name = name
        ownerConfiguration = configuration
        owner = PostgresPool(configuration, limits: .init(connectionLimit: 8, minimumIdle: 0), logger: TestStack.logger)
    }

    /// Runs a test on a database of its own.
    package static func with<Value>(_ body: (TestDatabase) async throws -> Value) async throws -> Value {
        let name = "martlet_test_\(UInt64.random(in: 0 ... .max))"
        try await TestTemplate.clone(as: name)
        var configuration = try TestStack.superuser()
        configuration.database = name
        let database = TestDatabase(name: name, configuration)
        do {
            let value = try await withRunning(database.owner) { try await body(database) }
            try await database.drop()
            return value
        } catch {
            try? await database.drop()
            throw error
        }
    }

    /// Runs a pool for the time of `body`.
    package static func withRunning<Value>(_ pool: PostgresPool, _ body: () async throws -> Value) async throws -> Value
    {
        let running = Task { await pool.run() }  // owned: ended by shutDown and awaited in both ways out
        do {
            let value = try await body()
            pool.shutDown()
            await running.value
            return value
        } catch {
            pool.shutDown()
            await running.value
            throw error
        }
    }

    private func drop() async throws {
        let connection = try await PostgresConnection.connect(try TestStack.superuser(), logger: TestStack.logger)
        try await connection.execute(script: "DROP DATABASE IF EXISTS \"\(name)\" WITH (FORCE)")
        for role in await roles.all { try await connection.execute(script: "DROP ROLE IF EXISTS \"\(role)\"") }
        await connection.close()
    }

    // MARK: Logins

    /// How a role of this database connects.
    package func configuration(role: String, password: String) -> PostgresConfiguration {
        var configuration = ownerConfiguration
        configuration.user = role
        configuration.setPassword(password)
        return configuration
    }

    /// How a component connects: a real login, so that its rights are tested too.
    package func configuration(for component: Bootstrap.Component) async throws -> PostgresConfiguration {
        let role = "\(name)_\(component.rawValue)"
        await roles.add(role)
        let login = try await Bootstrap(owner).createLogin(for: component, role: role)
        return configuration(role: login.role, password: login.password)
    }

    /// Runs a pool of a component for the time of `body`.
    package func withPool<Value>(
        of component: Bootstrap.Component,
        connectionLimit: Int = 8,
        _ body: (PostgresPool) async throws -> Value
    ) async throws -> Value {
        let pool = PostgresPool(
            try await configuration(for: component),
            limits: .init(connectionLimit: connectionLimit, minimumIdle: 0),
            logger: TestStack.logger
        )
        return try await Self.withRunning(pool) { try await body(pool) }
    }

    /// A role that is dropped with the database.
    package func own(role: String) async { await roles.add(role) }
}

private actor RoleList {
    private(set) var all: [String] = []
    func add(_ role: String) { if !all.contains(role) { all.append(role) } }
}
