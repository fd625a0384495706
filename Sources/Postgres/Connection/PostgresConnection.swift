package import Logging
import Synchronization

/// One connection to Postgres. libpq runs on a thread of its own, never on Swift's pool; statements sent at the same time
/// run one after the other.
///
/// Close it when done; forgetting to costs nothing but time, as the last reference closes it too.
package final class PostgresConnection: PostgresClient {
    /// Tells connections of this process apart.
    package let id: UInt64
    private let thread: ConnectionThread
    private let status: ConnectionStatus
    private let configuration: PostgresConfiguration

    private static let lastID = Atomic<UInt64>(0)

    private init(
        _ configuration: PostgresConfiguration,
        status: ConnectionStatus,
        onClose: @escaping @Sendable (UInt64) -> Void
    ) throws {
        let id = Self.lastID.wrappingAdd(1, ordering: .relaxed).newValue
        self.id = id
        self.configuration = configuration
        self.status = status
        thread = try ConnectionThread(
            makeSession: { Session(configuration: configuration, status: status, wake: $0) },
            onFinish: {
                status.update { $0.isOpen = false }
                onClose(id)
            }
        )
    }

    deinit { thread.stop() }

    /// Connects. Throws `connection_failed`, or the server's SQLSTATE when it refuses us.
    package static func connect(
        _ configuration: PostgresConfiguration,
        logger: Logger
    ) async throws -> PostgresConnection {
        try await connect(configuration, logger: logger, onNotification: { _ in }, onClose: { _ in })
    }

    /// `onNotification` and `onClose` are called on the connection's thread; `onClose` once, after a successful connect or
    /// not, when the socket is closed.
    static func connect(
        _ configuration: PostgresConfiguration,
        logger: Logger,
        onNotification: @escaping @Sendable (Notification) -> Void = { _ in },
        onClose: @escaping @Sendable (UInt64) -> Void = { _ in }
    ) async throws -> PostgresConnection {
        let status = ConnectionStatus(logger: logger, onNotification: onNotification)
        let connection = try PostgresConnection(configuration, status: status, onClose: onClose)
        let ticket = Ticket(for: configuration.connectDeadline)
        do {
            try await connection.perform(ticket) { try $0.connect(ticket) }
        } catch {
            await connection.close()
            throw error
        }
        return connection
    }

    /// False once it is closed or lost.
    package var isOpen: Bool { status.now.isOpen }

    /// The server process behind it, as in `pg_stat_activity.pid`.
    package var backendPID: Int32 { status.now.backendPID }

    /// A transaction is open on it.
    package var isInTransaction: Bool { status.now.isInTransaction }

    package func run(_ sql: SQL, deadline: Duration? = nil) async throws -> PostgresResult {
        let statement = try RenderedStatement(sql)
        let ticket = Ticket(for: deadline ?? configuration.statementDeadline)
        return try await perform(ticket) { try $0.run(statement, ticket) }
    }

    /// Runs text as it is: any number of statements, separated by semicolons, without parameters, in one transaction unless
    /// the text says otherwise. For migrations. Throws as `run` does.
    package func execute(script: String, deadline: Duration? = nil) async throws {
        _ = try await run(script: script, deadline: deadline, heedsCancellation: true)
    }

    /// With `heedsCancellation` false, it runs to its end or deadline even when the task is cancelled already.
    func run(script: String, deadline: Duration? = nil, heedsCancellation: Bool) async throws -> PostgresResult {
        let text = try script.rejectingNUL("the SQL text")
        let ticket = Ticket(for: deadline ?? configuration.statementDeadline)
        return try await perform(ticket, heedsCancellation: heedsCancellation) { try $0.run(script: text, ticket) }
    }

    /// Closes it, after the statement that runs now, and waits until the socket is closed. Idempotent.
    package func close() async {
        thread.stop()
        await thread.finished.waitUninterrupted()
    }

    /// Begins closing it, without waiting.
    func beginClosing() { thread.stop() }

    /// Waits until it is closed, by whomever; answers false if the task is cancelled before.
    func waitUntilClosed() async -> Bool { await thread.finished.wait() }

    /// Runs a job on the thread. Its ticket bounds it, and is cancelled with the task.
    private func perform<Value: Sendable>(
        _ ticket: Ticket,
        heedsCancellation: Bool = true,
        _ job: @escaping @Sendable (Session) throws -> Value
    ) async throws -> Value {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let isAccepted = thread.submit { session in continuation.resume(with: Result { try job(session) }) }
                if !isAccepted {
                    continuation.resume(throwing: PostgresError(.connectionClosed, "the connection is closed"))
                }
            }
        } onCancel: {
            guard heedsCancellation else { return }
            ticket.cancel()
            thread.wake.raise()
        }
    }
}
