package import Logging
import Synchronization

/// A connection that LISTENs, for as long as `run()` runs: it reconnects by itself, and says `.resync` each time that
/// listening has begun (LISTEN has committed), the first time included.
///
/// After a time of silence it notifies itself on a channel of its own. If that does not come back it is deaf, be the
/// connection ever so alive, and it connects anew.
package final class PostgresListener: Sendable {
    /// How it behaves.
    package struct Limits: Sendable {
        /// So long may it hear nothing before it pings itself.
        package var silenceLimit: Duration = .seconds(10)
        /// So long may the ping take.
        package var pingDeadline: Duration = .seconds(5)
        /// So many events may wait for the consumer; beyond, they become one `.resync`.
        package var eventLimit = 4096
        /// The first pause after a connection was lost; it doubles…
        package var firstBackoff: Duration = .milliseconds(100)
        /// … up to this.
        package var backoffLimit: Duration = .seconds(2)

        package init() {}
    }

    /// What it hears; for one consumer. Ends when `run()` does.
    package let events: PostgresListenerEvents
    private let configuration: PostgresConfiguration
    private let channels: [String]
    private let limits: Limits
    private let logger: Logger
    let inbox: ListenerInbox
    private let current = Mutex<PostgresConnection?>(nil)

    /// Connects to nothing before `run()`.
    package init(
        _ configuration: PostgresConfiguration,
        channels: [String],
        limits: Limits = Limits(),
        logger: Logger
    ) {
        self.configuration = configuration
        self.channels = channels
        self.limits = limits
        self.logger = logger
        inbox = ListenerInbox(limit: limits.eventLimit)
        events = PostgresListenerEvents(inbox: inbox)
    }

    /// The connection it listens on now. Tests make it deaf through this.
    var connection: PostgresConnection? { current.withLock { $0 } }

    /// It listens: connected, and its last LISTEN has committed.
    package var isListening: Bool { connection?.isOpen ?? false }

    /// Listens until its task is cancelled. To be called once.
    package func run() async {
        var backoff = Backoff(first: limits.firstBackoff, limit: limits.backoffLimit)
        while !Task.isCancelled {
            do {
                try await listenOnce(&backoff)
            } catch {
                if Task.isCancelled { break }
                logger.warning("listener lost its connection", metadata: ["postgres.error": "\(error)"])
            }
            try? await Task.sleep(for: backoff.next())
        }
        inbox.end()
    }

    /// One connection's life; always ends by throwing.
    private func listenOnce(_ backoff: inout Backoff) async throws {
        let connection = try await PostgresConnection.connect(
            configuration,
            logger: logger,
            onNotification: { [inbox] in inbox.receive($0) }
        )
        do {
            try await connection.execute(script: listenScript, deadline: configuration.connectDeadline)
            current.withLock { $0 = connection }
            inbox.resync()
            backoff.reset()
            try await follow(connection)
        } catch {
            current.withLock { $0 = nil }
            await connection.close()
            throw error
        }
    }

    private var listenScript: String {
        (channels + [inbox.pingChannel]).map { SQL("LISTEN \(identifier: $0);").text }.joined(separator: " ")
    }

    /// Until the connection is lost or found deaf.
    private func follow(_ connection: PostgresConnection) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                _ = await connection.waitUntilClosed()
                try Task.checkCancellation()
                throw PostgresError(.connectionLost, "the listener's connection was closed")
            }
            group.addTask { try await self.pingWhenSilent(connection) }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private func pingWhenSilent(_ connection: PostgresConnection) async throws {
        while true {
            let rest = limits.silenceLimit - inbox.silence(at: .now)
            if rest > .zero {
                try await Task.sleep(for: rest)
            } else {
                try await ping(connection)
            }
        }
    }

    private func ping(_ connection: PostgresConnection) async throws {
        let (payload, answer) = inbox.expectPing()
        try await connection.execute(
            "SELECT pg_notify(\(inbox.pingChannel), \(payload))",
            deadline: limits.pingDeadline
        )
        guard await answer.wait(for: limits.pingDeadline) else {
            try Task.checkCancellation()
            throw PostgresError(
                .listenerDeaf,
                "the listener's own notification did not come back within \(limits.pingDeadline)"
            )
        }
    }
}
