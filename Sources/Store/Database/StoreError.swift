package import Postgres

/// What a query of this room refuses or fails with, in the words of the tables' rules.
///
/// `message` and `hint` are safe to show to the client that asked: they name limits and its own values only.
package struct StoreError: Error, Sendable, CustomStringConvertible {
    /// The kind of refusal. HTTP statuses are chosen from it, in one place (room API).
    package enum Code: String, Sendable, CaseIterable {
        /// There is no such row, or it is not the asker's.
        case notFound
        /// Another living sandbox, key or snapshot has this name.
        case nameTaken
        /// The row was changed by somebody else again and again while we tried.
        case changedMeanwhile
        /// A ceiling of the organization is reached.
        case ceilingReached
        /// The sandbox's runner cannot hold more.
        case noRoom
        /// Something else needs it.
        case inUse
        /// A value breaks a rule of the schema.
        case invalidValue
        /// The files of the schema do not go with what was applied.
        case migrationRefused
        /// The database cannot be reached, or is too busy; trying again may help.
        case unavailable
        /// Anything else: a fault of ours.
        case failed
    }

    package var code: Code
    package var message: String
    /// What to do about it.
    package var hint: String?
    /// For logs only.
    package var cause: PostgresError?

    package init(_ code: Code, _ message: String, hint: String? = nil, cause: PostgresError? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
        self.cause = cause
    }

    package var description: String {
        "store \(code.rawValue): \(message)" + (hint.map { " (hint: \($0))" } ?? "") + (cause.map { " [\($0)]" } ?? "")
    }
}

extension PostgresError.Code {
    /// Raised by `sandbox_within_ceilings`.
    package static let organizationCeiling = Self(rawValue: "MRT01")
    /// Raised by `book_compute`.
    package static let runnerCapacity = Self(rawValue: "MRT02")
    /// Raised by `sandbox_fits_a_runner`.
    package static let regionCapacity = Self(rawValue: "MRT04")
    /// Raised by `volume_changes`.
    package static let volumeInUse = Self(rawValue: "MRT05")
}

extension StoreError {
    /// Names the rule that was broken.
    package init(_ error: PostgresError) {
        switch error.code {
        case .organizationCeiling: self.init(.ceilingReached, error.message, hint: error.hint, cause: error)
        case .runnerCapacity: self.init(.noRoom, error.message, hint: error.hint, cause: error)
        case .volumeInUse: self.init(.inUse, error.message, hint: error.hint, cause: error)
        case .regionCapacity: self.init(.invalidValue, error.message, hint: error.hint, cause: error)
        case .uniqueViolation:
            self.init(.nameTaken, Self.wordsForTakenName(error), hint: "Choose another name.", cause: error)
        case .checkViolation, .notNullViolation, .exclusionViolation, .foreignKeyViolation:
            self.init(.invalidValue, Self.wordsForBrokenRule(error), hint: error.hint, cause: error)
        case let code where code.sqlState?.hasPrefix("22") == true:
            self.init(.invalidValue, "a value is not of the kind that is asked for", cause: error)
        default:
            if case .retry = error.retry {
                self.init(
                    .unavailable,
                    "the database does not answer at the moment",
                    hint: "Try again in a second.",
                    cause: error
                )
            } else {
                self.init(.failed, "the database refused a statement of ours", cause: error)
            }
        }
    }

    private static func wordsForTakenName(_ error: PostgresError) -> String {
        switch error.constraint {
        case "sandbox_name_is_unique": "a sandbox with this name exists already"
        case "snapshot_name_is_unique_in_organization": "a snapshot with this name exists already"
        case "registry_name_is_unique": "a registry with this name exists already"
        case "api_key_name_is_unique": "an API key with this name exists already"
        case "volume_name_is_unique": "a volume with this name exists already"
        default: "this exists already (\(error.constraint ?? "unique"))"
        }
    }

    private static let wordyRules: Set = [
        "captured_sandbox_is_there", "context_is_uploaded", "destroyed_is_final", "disk_is_fixed",
        "ephemeral_is_not_archived", "volume_deletion_is_final", "volume_is_there",
        "volumes_are_ready",
    ]

    private static func wordsForBrokenRule(_ error: PostgresError) -> String {
        // The message of a rule raised by our functions is written for people; that of a CHECK names only itself.
        if wordyRules.contains(error.constraint ?? "") { return error.message }
        return "a value breaks the rule \(error.constraint ?? error.column ?? "of the table")"
    }
}

/// Runs queries; turns what Postgres says into what it means here. Cancellation passes untouched.
package func translatingErrors<Value>(_ body: () async throws -> Value) async throws -> Value {
    do {
        return try await body()
    } catch let error as PostgresError {
        throw StoreError(error)
    }
}
