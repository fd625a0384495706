/// Everything that goes wrong in this room, except cancellation of the calling task, which is a `CancellationError`.
///
/// `description` is safe to log: it holds neither `detail` (the server puts rows in there) nor, where the server quotes
/// the offending value in its message (class 22), that value. `message`, `detail` and `hint` are the server's own words.
package struct PostgresError: Error, Sendable {
    /// What happened: an SQLSTATE or one of our own codes.
    package var code: Code
    /// The primary message. May quote a bound value when `code` is of class 22; `description` never does.
    package var message: String
    /// The server's detail line; often shows the offending row, so keep it out of logs.
    package var detail: String?
    /// The server's hint.
    package var hint: String?
    /// The violated constraint, for class 23.
    package var constraint: String?
    /// The schema of `table`.
    package var schema: String?
    /// The table concerned.
    package var table: String?
    /// The column concerned.
    package var column: String?
    /// Whether to try again.
    package var retry: RetryAdvice
    /// The SQL text with `$1`…; holds no bound value, but whatever was interpolated as `unescaped:`. Not in `description`.
    package var statement: String?

    /// An error with a code and the advice that belongs to the code.
    package init(_ code: Code, _ message: String, retry: RetryAdvice? = nil) {
        self.code = code
        self.message = message
        self.retry = retry ?? code.retry
    }

    /// What a `PostgresDecodable` throws when a value cannot be read; `Row` adds the column.
    package static func mismatch(_ reason: String) -> PostgresError {
        PostgresError(.decodingFailed, reason)
    }
}

extension PostgresError {
    /// An SQLSTATE (five capitals and digits), or a code of our own (lower-case words).
    package struct Code: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
        package let rawValue: String

        package init(rawValue: String) { self.rawValue = rawValue }

        /// The SQLSTATE if the server said it; nil for our own codes.
        package var sqlState: String? { rawValue.utf8.count == 5 && !rawValue.contains("_") ? rawValue : nil }

        package var description: String { rawValue }

        fileprivate var retry: RetryAdvice {
            if let sqlState { return .forSQLState(sqlState) }
            switch self {
            case .connectionFailed, .connectionLost, .deadlineExceeded, .acquisitionDeadlineExceeded, .tooManyWaiters,
                .outcomeUnknown:
                return .retry(after: .seconds(1))
            default: return .never
            }
        }
    }
}

extension PostgresError.Code {
    // Ours.

    /// No connection could be made.
    package static let connectionFailed = Self(rawValue: "connection_failed")
    /// The connection broke, possibly while the statement ran.
    package static let connectionLost = Self(rawValue: "connection_lost")
    /// The connection was closed, by us or otherwise, before the statement was sent.
    package static let connectionClosed = Self(rawValue: "connection_closed")
    /// The statement's deadline passed; it was cancelled on the server.
    package static let deadlineExceeded = Self(rawValue: "deadline_exceeded")
    /// No pooled connection became free in time.
    package static let acquisitionDeadlineExceeded = Self(rawValue: "acquisition_deadline_exceeded")
    /// The pool's line of waiters is full.
    package static let tooManyWaiters = Self(rawValue: "too_many_waiters")
    /// The pool is shut down.
    package static let poolClosed = Self(rawValue: "pool_closed")
    /// A value could not be read as the Swift type asked for.
    package static let decodingFailed = Self(rawValue: "decoding_failed")
    /// A value, or the SQL text itself, cannot be sent to Postgres.
    package static let encodingFailed = Self(rawValue: "encoding_failed")
    /// The connection URL is wrong.
    package static let invalidConfiguration = Self(rawValue: "invalid_configuration")
    /// COMMIT was sent and its answer never came: the transaction may or may not have happened.
    package static let outcomeUnknown = Self(rawValue: "outcome_unknown")
    /// COMMIT was answered by ROLLBACK: the body swallowed the error of a statement.
    package static let rolledBack = Self(rawValue: "rolled_back")
    /// A transaction is open already.
    package static let nestedTransaction = Self(rawValue: "nested_transaction")
    /// COPY and the like.
    package static let unsupported = Self(rawValue: "unsupported")
    /// The listener's own notification did not come back.
    package static let listenerDeaf = Self(rawValue: "listener_deaf")

    // The server's, those that code asks for.

    package static let notNullViolation = Self(rawValue: "23502")
    package static let foreignKeyViolation = Self(rawValue: "23503")
    package static let uniqueViolation = Self(rawValue: "23505")
    package static let checkViolation = Self(rawValue: "23514")
    package static let exclusionViolation = Self(rawValue: "23P01")
    package static let serializationFailure = Self(rawValue: "40001")
    package static let deadlockDetected = Self(rawValue: "40P01")
    package static let insufficientPrivilege = Self(rawValue: "42501")
    package static let undefinedTable = Self(rawValue: "42P01")
    package static let undefinedFunction = Self(rawValue: "42883")
    package static let syntaxError = Self(rawValue: "42601")
    package static let lockNotAvailable = Self(rawValue: "55P03")
    package static let readOnlyTransaction = Self(rawValue: "25006")
    package static let unknownStatement = Self(rawValue: "26000")
    package static let featureNotSupported = Self(rawValue: "0A000")
    package static let queryCanceled = Self(rawValue: "57014")
    package static let adminShutdown = Self(rawValue: "57P01")
    package static let raisedException = Self(rawValue: "P0001")
    package static let undefinedDatabase = Self(rawValue: "3D000")
    package static let invalidPassword = Self(rawValue: "28P01")
    package static let invalidAuthorization = Self(rawValue: "28000")
}

extension PostgresError: CustomStringConvertible, CustomDebugStringConvertible {
    package var description: String {
        var text = "postgres \(code): \(safeMessage)"
        if let constraint { text += " [constraint \(constraint)]" }
        if let table { text += " [table \(table)]" }
        if let column { text += " [column \(column)]" }
        if let hint { text += " (hint: \(hint))" }
        return text
    }

    package var debugDescription: String { description }

    /// The message without the values that class 22 quotes.
    private var safeMessage: String {
        code.rawValue.hasPrefix("22") && code.sqlState != nil ? message.withQuotedPartsHidden : message
    }
}

extension String {
    /// `invalid input: "secret"` becomes `invalid input: "…"`.
    var withQuotedPartsHidden: String {
        var hidden = ""
        var inQuotes = false
        for character in self {
            if character == "\"" {
                hidden += inQuotes ? "…\"" : "\""
                inQuotes.toggle()
            } else if !inQuotes {
                hidden.append(character)
            }
        }
        return inQuotes ? hidden + "…\"" : hidden
    }
}
