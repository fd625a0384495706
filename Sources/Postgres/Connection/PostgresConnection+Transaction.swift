/// How much of other transactions a transaction sees.
package enum PostgresIsolation: String, Sendable {
    case readCommitted = "READ COMMITTED"
    case repeatableRead = "REPEATABLE READ"
    case serializable = "SERIALIZABLE"
}

extension PostgresConnection {
    /// How often a transaction is tried that loses against others.
    package static var transactionAttemptLimit: Int { 5 }

    /// Runs `body` between BEGIN and COMMIT; rolls back if it throws. After a serialization failure or a deadlock it runs
    /// `body` again, so `body` must have no other effects than on the database.
    ///
    /// - Throws: what `body` throws, after the rollback; `outcome_unknown` if the connection broke during COMMIT;
    ///   `rolled_back` if `body` swallowed the error of a statement; `nested_transaction` if one is open.
    @discardableResult
    package func withTransaction<Value>(
        isolation: PostgresIsolation = .readCommitted,
        readOnly: Bool = false,
        _ body: (PostgresConnection) async throws -> Value
    ) async throws -> Value {
        var backoff = Backoff(first: .milliseconds(5), limit: .milliseconds(250))
        for _ in 1..<Self.transactionAttemptLimit {
            do {
                return try await transactOnce(isolation, readOnly, body)
            } catch let error as PostgresError where error.isLostRace {
                try await Task.sleep(for: backoff.next())
            }
        }
        return try await transactOnce(isolation, readOnly, body)
    }

    private func transactOnce<Value>(
        _ isolation: PostgresIsolation,
        _ readOnly: Bool,
        _ body: (PostgresConnection) async throws -> Value
    ) async throws -> Value {
        guard !isInTransaction else {
            throw PostgresError(.nestedTransaction, "a transaction is open on this connection; use SAVEPOINT within it")
        }
        let value: Value
        do {
            try await execute(script: "BEGIN ISOLATION LEVEL \(isolation.rawValue)\(readOnly ? " READ ONLY" : "")")
            value = try await body(self)
        } catch {
            await rollBack()
            throw error
        }
        try await commit()
        return value
    }

    /// Not stopped by cancellation: a COMMIT cut short would leave us not knowing.
    private func commit() async throws {
        let result: PostgresResult
        do {
            result = try await run(script: "COMMIT", heedsCancellation: false)
        } catch let error as PostgresError where error.code == .connectionClosed {
            throw error
        } catch let error as PostgresError where error.code.sqlState == nil || error.code == .adminShutdown {
            beginClosing()
            throw PostgresError(
                .outcomeUnknown,
                "it is not known whether the transaction was committed: \(error.message)"
            )
        }
        guard result.commandTag == "COMMIT" else {
            throw PostgresError(
                .rolledBack,
                "COMMIT was answered by \(result.commandTag): a statement had failed and its error was not thrown"
            )
        }
    }

    /// A connection that cannot roll back is closed, which rolls back too.
    private func rollBack() async {
        guard isOpen, isInTransaction else { return }
        do {
            _ = try await run(script: "ROLLBACK", deadline: .seconds(5), heedsCancellation: false)
        } catch {
            beginClosing()
        }
    }
}

extension PostgresError {
    /// Another transaction was in the way; the same again may succeed.
    fileprivate var isLostRace: Bool { code == .serializationFailure || code == .deadlockDetected }
}
