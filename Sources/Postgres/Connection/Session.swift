import CLibPQ
import Glibc
import Logging

/// A PGconn and what belongs to it. Not Sendable: it lives and dies on its connection's thread.
final class Session {
    private enum Phase {
        case fresh
        case open(OpaquePointer)
        case closed(PostgresError)
    }

    private var phase = Phase.fresh
    private let configuration: PostgresConfiguration
    private let status: ConnectionStatus
    let wake: WakeSignal
    var statements: StatementCache

    init(configuration: PostgresConfiguration, status: ConnectionStatus, wake: WakeSignal) {
        self.configuration = configuration
        self.status = status
        self.wake = wake
        statements = StatementCache(limit: configuration.preparedStatementLimit)
    }

    deinit { close() }

    var isClosed: Bool {
        if case .closed = phase { true } else { false }
    }

    /// The open PGconn. Throws `connection_closed`, which says that nothing has been sent.
    func handle() throws -> OpaquePointer {
        switch phase {
        case .open(let handle): return handle
        case .closed(let error):
            throw PostgresError(.connectionClosed, "nothing was sent: \(error.message)", retry: error.retry)
        case .fresh: throw PostgresError(.connectionClosed, "the connection has not been opened")
        }
    }

    var isInTransaction: Bool {
        guard case .open(let handle) = phase else { return false }
        return PQtransactionStatus(handle) != PQTRANS_IDLE
    }

    /// Closes the connection, if it is open; idempotent.
    func close() { close(because: PostgresError(.connectionClosed, "the connection is closed")) }

    private func close(because error: PostgresError) {
        if isClosed { return }
        status.update { $0.isOpen = false }
        if case .open(let handle) = phase { PQfinish(handle) }
        phase = .closed(error)
    }

    /// Closes the connection, because of this; answers the error, to be thrown.
    func lose(_ error: PostgresError) -> PostgresError {
        close(because: error)
        return error
    }

    /// Closes a connection that broke.
    func loseBroken(_ handle: OpaquePointer) -> PostgresError {
        let reason = String(cString: PQerrorMessage(handle)).onOneLine
        return lose(
            PostgresError(
                .connectionLost,
                "the connection was lost: \(reason.isEmpty ? "closed by the server" : reason)"
            )
        )
    }

    // MARK: Connecting

    /// Connects. On failure the session is closed.
    func connect(_ ticket: Ticket) throws {
        guard let handle = configuration.withLibPQOptions({ PQconnectStartParams($0, $1, 0) }) else {
            throw lose(PostgresError(.connectionFailed, "out of memory"))
        }
        phase = .open(handle)
        PQsetErrorVerbosity(handle, PQERRORS_VERBOSE)  // the only way to see the SQLSTATE of a refusal
        PQsetNoticeProcessor(handle, logNotice, Unmanaged.passUnretained(status).toOpaque())
        do {
            try finishConnecting(handle, ticket)
        } catch {
            close()
            throw error
        }
        PQsetErrorVerbosity(handle, PQERRORS_DEFAULT)
        status.update {
            $0.isOpen = true
            $0.backendPID = PQbackendPID(handle)
        }
    }

    private func finishConnecting(_ handle: OpaquePointer, _ ticket: Ticket) throws {
        guard PQstatus(handle) != CONNECTION_BAD else { throw refusal(handle) }
        var step = PGRES_POLLING_WRITING
        while true {
            switch step {
            case PGRES_POLLING_OK:
                guard PQsetnonblocking(handle, 1) == 0 else { throw refusal(handle) }
                return
            case PGRES_POLLING_FAILED: throw refusal(handle)
            case PGRES_POLLING_WRITING: try awaitConnecting(handle, Int16(POLLOUT), ticket)
            default: try awaitConnecting(handle, Int16(POLLIN), ticket)
            }
            step = PQconnectPoll(handle)
        }
    }

    private func awaitConnecting(_ handle: OpaquePointer, _ events: Int16, _ ticket: Ticket) throws {
        var wakeup: Wakeup
        repeat {
            wakeup = wait(handle, for: events, until: ticket.deadline)
            switch ticket.interruption {
            case nil: break
            case .cancelled: throw CancellationError()
            case .deadline(let allowance):
                throw PostgresError(.connectionFailed, "no connection to \(configuration) within \(allowance)")
            }
        } while wakeup != .socket
    }

    private func refusal(_ handle: OpaquePointer) -> PostgresError {
        let refusal = ConnectionRefusal(String(cString: PQerrorMessage(handle)))
        return PostgresError(refusal.code, "\(configuration): \(refusal.message)", retry: refusal.retry)
    }

    // MARK: Waiting

    enum Wakeup { case socket, woken, deadline }

    /// Sleeps until the socket is ready, somebody raises the wake signal, or the time is over.
    func wait(_ handle: OpaquePointer?, for events: Int16, until deadline: ContinuousClock.Instant?) -> Wakeup {
        withUnsafeTemporaryAllocation(of: pollfd.self, capacity: 2) { descriptors in
            descriptors.initializeElement(at: 0, to: pollfd(fd: wake.descriptor, events: Int16(POLLIN), revents: 0))
            let socket = handle.map { PQsocket($0) } ?? -1  // poll passes over negative numbers
            descriptors.initializeElement(at: 1, to: pollfd(fd: socket, events: events, revents: 0))
            let count = poll(descriptors.baseAddress, 2, deadline.map(milliseconds) ?? -1)
            if count < 0 { return .woken }  // a signal
            if descriptors[0].revents != 0 { wake.lower() }
            if descriptors[1].revents != 0 { return .socket }
            return count == 0 ? .deadline : .woken
        }
    }

    /// Until then, rounded up, so that waking up means that it has passed.
    private func milliseconds(until deadline: ContinuousClock.Instant) -> Int32 {
        let left = ContinuousClock.now.duration(to: deadline).components
        guard left.seconds >= 0, left.attoseconds >= 0 else { return 0 }
        let whole = min(left.seconds, 1_000_000) * 1000
        return Int32(whole + left.attoseconds / 1_000_000_000_000_000 + 1)
    }

    /// Sleeps between jobs; takes in notifications and notices when the connection breaks.
    func idle() {
        guard case .open(let handle) = phase else {
            _ = wait(nil, for: 0, until: nil)
            return
        }
        guard wait(handle, for: Int16(POLLIN), until: nil) == .socket else { return }
        guard PQconsumeInput(handle) == 1 else {
            let error = loseBroken(handle)
            status.logger.debug("idle connection lost", metadata: ["postgres.error": "\(error)"])
            return
        }
        handOutNotifications(handle)
    }

    /// Gives the notifications read so far to whoever listens.
    func handOutNotifications(_ handle: OpaquePointer) {
        while let notification = PQnotifies(handle) {
            defer { PQfreemem(notification) }
            status.onNotification(
                Notification(
                    channel: String(cString: notification.pointee.relname),
                    payload: String(cString: notification.pointee.extra)
                )
            )
        }
    }

    /// Tells the world whether a transaction is open.
    func publishTransactionStatus() {
        let isInTransaction = isInTransaction
        status.update { $0.isInTransaction = isInTransaction }
    }

    func startCancelling(_ handle: OpaquePointer, because interruption: Interruption) -> CancelRequest {
        CancelRequest(for: handle, because: interruption, grace: configuration.cancelGrace, wake: wake)
    }
}

/// NOTICE and WARNING: libpq would print them. They may hold values, so they stay at the debug level.
private func logNotice(_ context: UnsafeMutableRawPointer?, _ message: UnsafePointer<CChar>?) {
    guard let context, let message else { return }
    let status = Unmanaged<ConnectionStatus>.fromOpaque(context).takeUnretainedValue()
    status.logger.debug("notice from postgres", metadata: ["postgres.notice": "\(String(cString: message).onOneLine)"])
}
