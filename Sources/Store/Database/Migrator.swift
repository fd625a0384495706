import Crypto
import Domain
import FoundationEssentials
package import Logging
package import Postgres

/// Brings a database to the schema of a directory of `NNNN_verb_noun.sql`, forward only.
///
/// Each file runs in a transaction of its own, with its row in `migration`; one advisory lock lets one migrator work at a
/// time. A file that was applied and has changed or vanished since is refused: nothing is applied then.
package struct Migrator: Sendable {
    /// One file.
    package struct Migration: Sendable, Equatable {
        /// Its name without `.sql`.
        package let name: String
        package let script: String
        /// Lower-case hexadecimal SHA-256 of its bytes.
        package let sha256: String
    }

    /// How long one file may take.
    package static var fileDeadline: Duration { .seconds(600) }

    /// In order.
    package let migrations: [Migration]
    private let logger: Logger

    /// Reads the directory. Throws if a name is not `NNNN_words.sql`, if two have one number, or if there is none.
    package init(directory: String, logger: Logger) throws {
        self.logger = logger
        let names = try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasSuffix(".sql") }
            .sorted()
        guard !names.isEmpty else { throw Self.refusal("there is no .sql file in \(directory)") }
        migrations = try names.map { name in
            guard name.prefixMatch(of: /[0-9]{4}_[a-z0-9_]+\.sql/)?.range.upperBound == name.endIndex else {
                throw Self.refusal("the file \(name) in \(directory) is not named NNNN_verb_noun.sql")
            }
            let data = try Data(contentsOf: URL(filePath: directory).appending(path: name))
            return Migration(
                name: String(name.dropLast(4)),
                script: String(decoding: data, as: UTF8.self),
                sha256: SHA256.hash(data: data).hexadecimal
            )
        }
        let numbers = migrations.map { $0.name.prefix(4) }
        guard Set(numbers).count == numbers.count else {
            throw Self.refusal("two files in \(directory) have one number")
        }
    }

    /// One hash over all files: the schema's version.
    package var fingerprint: String {
        let all = Data(migrations.flatMap { "\($0.name) \($0.sha256)\n".utf8 })
        return Data(SHA256.hash(data: all)).base64URLText
    }

    /// Applies what is missing; answers the names of what it applied. The login must own the database.
    @discardableResult
    package func migrate(_ configuration: PostgresConfiguration) async throws -> [String] {
        let connection = try await PostgresConnection.connect(configuration, logger: logger)
        do {
            // A lock of the session; closing the connection lets go of it.
            try await connection.execute(
                "SELECT pg_advisory_lock(hashtext('martlet.migrate'))",
                deadline: Self.fileDeadline
            )
            let applied = try await applyMissing(on: connection)
            await connection.close()
            return applied
        } catch {
            await connection.close()
            throw error
        }
    }

    private func applyMissing(on connection: PostgresConnection) async throws -> [String] {
        try await connection.execute(
            """
            CREATE TABLE IF NOT EXISTS migration (
                name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
            """
        )
        let rows = try await connection.query("SELECT name, sha256 FROM migration ORDER BY name")
        let missing = try Self.plan(
            files: migrations,
            applied: rows.map { (name: try $0["name"], sha256: try $0["sha256"]) }
        )
        for migration in missing { try await apply(migration, on: connection) }
        return missing.map(\.name)
    }

    /// What is to be applied. Throws if history and files disagree.
    static func plan(files: [Migration], applied: [(name: String, sha256: String)]) throws -> [Migration] {
        let byName = Dictionary(uniqueKeysWithValues: files.map { ($0.name, $0) })
        for old in applied {
            guard let file = byName[old.name] else {
                throw refusal("migration \(old.name) was applied to this database, but its file is missing")
            }
            guard file.sha256 == old.sha256 else {
                throw refusal(
                    "migration \(old.name) was changed after it was applied: restore the file, and add a new one"
                )
            }
        }
        let done = Set(applied.map(\.name))
        let missing = files.filter { !done.contains($0.name) }
        if let first = missing.first, let last = applied.last, first.name < last.name {
            throw refusal(
                "migration \(first.name) comes before \(last.name), which is applied: give it a higher number"
            )
        }
        return missing
    }

    private func apply(_ migration: Migration, on connection: PostgresConnection) async throws {
        logger.info("applying migration", metadata: ["migration.name": "\(migration.name)"])
        do {
            try await connection.withTransaction { transaction in
                try await transaction.execute(script: migration.script, deadline: Self.fileDeadline)
                try await transaction.execute(
                    "INSERT INTO migration (name, sha256) VALUES (\(migration.name), \(migration.sha256))"
                )
            }
        } catch let error as PostgresError {
            throw StoreError(
                .failed,
                "migration \(migration.name) failed: \(error.message)",
                hint: error.hint,
                cause: error
            )
        }
    }

    private static func refusal(_ message: String) -> StoreError { StoreError(.migrationRefused, message) }
}
