/// Whatever runs statements: a pool, or a connection. Query functions take `any PostgresClient`, so that they serve inside
/// and outside of transactions alike.
package protocol PostgresClient: Sendable {
    /// Runs one statement as a prepared one.
    ///
    /// - Parameter deadline: for this statement; nil means the configuration's. When it is over, or the task is cancelled,
    ///   the statement is cancelled on the server.
    /// - Throws: `PostgresError`, or `CancellationError`.
    func run(_ sql: SQL, deadline: Duration?) async throws -> PostgresResult
}

extension PostgresClient {
    /// Runs a statement; answers its rows. Throws as `run` does.
    package func query(_ sql: SQL, deadline: Duration? = nil) async throws -> [Row] {
        try await run(sql, deadline: deadline).rows
    }

    /// Runs a statement; answers its first row, if there is any. Throws as `run` does.
    package func queryFirst(_ sql: SQL, deadline: Duration? = nil) async throws -> Row? {
        try await run(sql, deadline: deadline).rows.first
    }

    /// Runs a statement; answers how many rows it touched. Throws as `run` does.
    @discardableResult
    package func execute(_ sql: SQL, deadline: Duration? = nil) async throws -> Int {
        try await run(sql, deadline: deadline).affectedRows
    }
}
