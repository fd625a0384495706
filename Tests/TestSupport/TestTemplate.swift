import Postgres
import Store

/// The migrated database that test databases are cloned from; made once per version of the migrations and kept.
enum TestTemplate {
    static func clone(as name: String) async throws {
        let migrator = try Migrator(directory: TestStack.migrationsDirectory, logger: TestStack.logger)
        let template =
            "martlet_template_" + migrator.fingerprint.prefix(16).lowercased().filter { $0.isLetter || $0.isNumber }
        let connection = try await PostgresConnection.connect(try TestStack.superuser(), logger: TestStack.logger)
        do {
            // Shared while cloning, exclusive while making: CREATE DATABASE fails when somebody else uses its template.
            try await connection.execute(
                "SELECT pg_advisory_lock(hashtext('martlet.template'))",
                deadline: .seconds(120)
            )
            let isThere = try await connection.queryFirst("SELECT FROM pg_database WHERE datname = \(template)") != nil
            if !isThere { try await make(template, migrator, connection) }
            try await connection.execute(
                script: "CREATE DATABASE \"\(name)\" TEMPLATE \"\(template)\"",
                deadline: .seconds(60)
            )
            await connection.close()
        } catch {
            await connection.close()
            throw error
        }
    }

    /// Made under another name and renamed, so that a template with this name is complete.
    private static func make(_ template: String, _ migrator: Migrator, _ connection: PostgresConnection) async throws {
        let unfinished = template + "_unfinished"
        try await connection.execute(
            script: "DROP DATABASE IF EXISTS \"\(unfinished)\" WITH (FORCE)",
            deadline: .seconds(60)
        )
        try await connection.execute(script: "CREATE DATABASE \"\(unfinished)\"", deadline: .seconds(60))
        var configuration = try TestStack.superuser()
        configuration.database = unfinished
        try await migrator.migrate(configuration)
        try await connection.execute(
            script: "ALTER DATABASE \"\(unfinished)\" RENAME TO \"\(template)\"",
            deadline: .seconds(60)
        )
    }
}
