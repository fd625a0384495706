package import Logging
import Synchronization

/// Connections for many callers. Works as soon as `run()` does: until Postgres is up, and after it has been away, callers
/// wait up to the acquisition deadline while the pool tries to connect.
///
/// A connection goes back as it is: whoever changes its session (SET, LISTEN, session advisory locks) must undo that, or
/// use a `PostgresConnection` of their own. One that comes back within a transaction is closed.
package final class PostgresPool: PostgresClient {
    private let configuration: PostgresConfiguration
    private let limits: PostgresPoolConfiguration
    private let logger: Logger
    private let machine: Mutex<PoolStateMachine>
    private let openings: AsyncStream<Void>
    private let openingRequests: AsyncStream<Void>.Continuation
    private let drained = Latch()

    /// Connects to nothing before `run()`.
    package init(_ configuration: PostgresConfiguration, limits: PostgresPoolConfiguration = .init(), logger: Logger) {
        self.configuration = configuration
        self.limits = limits
        self.logger = logger
        machine = Mutex(PoolStateMachine(limits))
        // The machine asks for at most `connectionLimit` at a time, so this buffer is bounded.
        (openings, openingRequests) = AsyncStream.makeStream(bufferingPolicy: .unbounded)
    }

    /// How it stands.
    package var status: PostgresPoolStatus { machine.withLock { $0.status } }

    // MARK: Use

    /// As the protocol says. A connection found dead before anything was sent is replaced once, silently.
    package func run(_ sql: SQL, deadline: Duration? = nil) async throws -> PostgresResult {
        do {
            return try await withConnection { try await $0.run(sql, deadline: deadline) }
        } catch let error as PostgresError where error.code == .connectionClosed {
            return try await withConnection { try await $0.run(sql, deadline: deadline) }
        }
    }

    /// Lends a connection for the time of `body`. Throws `acquisition_deadline_exceeded`, naming the limit, who waits and
    /// what was tried, if none comes free in time; `pool_closed` after shutdown.
    @discardableResult
    package func withConnection<Value>(_ body: (PostgresConnection) async throws -> Value) async throws -> Value {
        let connection = try await acquire()
        defer { apply { $0.release(connection, now: .now) } }
        return try await body(connection)
    }

    /// Runs `body` in a transaction; see `PostgresConnection.withTransaction`.
    @discardableResult
    package func withTransaction<Value>(
        isolation: PostgresIsolation = .readCommitted,
        readOnly: Bool = false,
        _ body: (PostgresConnection) async throws -> Value
    ) async throws -> Value {
        try await withConnection { try await $0.withTransaction(isolation: isolation, readOnly: readOnly, body) }
    }

    private func acquire() async throws -> PostgresConnection {
        try Task.checkCancellation()
        if let connection = try machine.withLock({ try $0.leaseIdle() }) { return connection }
        return try await waitInLine()
    }

    private func waitInLine() async throws -> PostgresConnection {
        let ticket = machine.withLock { $0.newTicket() }
        let deadline = ContinuousClock.now + limits.acquisitionDeadline
        async let _: Void = expire(ticket, at: deadline)
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { waiter in
                apply { machine in
                    guard !Task.isCancelled else {
                        return PoolStateMachine.Effects(handovers: [(waiter, .failure(CancellationError()))])
                    }
                    return machine.enqueue(waiter, ticket: ticket, deadline: deadline)
                }
            }
        } onCancel: {
            apply { $0.cancel(ticket: ticket) }
        }
    }

    /// Cancelled as soon as the wait is over.
    private func expire(_ ticket: UInt64, at deadline: ContinuousClock.Instant) async {
        do { try await Task.sleep(until: deadline) } catch { return }
        apply { $0.expire(ticket: ticket) }
    }

    // MARK: Life

    /// Makes, checks and replaces connections. Ends after `shutDown()`, or when its task is cancelled, and then only when
    /// the last connection is closed. To be called once.
    package func run() async {
        await withTaskCancellationHandler {
            await withDiscardingTaskGroup { group in
                group.addTask { await self.lookAfterConnections() }
                apply { PoolStateMachine.Effects(opens: $0.takeOpens()) }
                for await _ in openings { group.addTask { await self.open() } }
                shutDown()
                group.cancelAll()
            }
            await drain()
        } onCancel: {
            shutDown()
        }
    }

    /// Begins shutting down: who waits gets `pool_closed`, idle connections are closed, borrowed ones when they come back.
    /// `run()` returns when all that is done. Idempotent.
    package func shutDown() {
        apply { $0.shutDown() }
        openingRequests.finish()
    }

    /// Runs also in a cancelled task, so nothing here may depend on cancellation: therefore the unstructured task, which can
    /// still sleep; it is cancelled and awaited at the end.
    private func drain() async {
        let overdue = Task {
            guard (try? await Task.sleep(for: limits.shutdownGrace)) != nil else { return }
            logger.warning("closing connections still in use at shutdown", metadata: ["postgres.pool": "\(status)"])
            apply { $0.overdue() }
        }
        apply { PoolStateMachine.Effects(isDrained: $0.isDrained) }
        await drained.waitUninterrupted()
        overdue.cancel()
        await overdue.value
    }

    private func open() async {
        guard machine.withLock({ $0.beginOpening() }) else { return }
        do {
            let connection = try await PostgresConnection.connect(
                configuration,
                logger: logger,
                onClose: { [weak self] id in self?.apply { $0.closed(id) } }
            )
            apply { $0.opened(connection, now: .now) }
        } catch {
            if !Task.isCancelled {
                logger.warning("cannot connect to postgres", metadata: ["postgres.error": "\(error)"])
            }
            let (effects, pause) = machine.withLock { $0.openFailed(error) }
            perform(effects)
            try? await Task.sleep(for: pause)
            apply { $0.backedOff() }
        }
    }

    private func lookAfterConnections() async {
        let interval = min(limits.healthCheckInterval, limits.idleLimit) / 2
        while (try? await Task.sleep(for: interval)) != nil {
            let (effects, checks) = machine.withLock { $0.takeDue(now: .now) }
            perform(effects)
            await withDiscardingTaskGroup { group in
                for connection in checks { group.addTask { await self.check(connection) } }
            }
        }
    }

    /// A connection that gives no sign of life has been closed by its deadline, and is not taken back.
    private func check(_ connection: PostgresConnection) async {
        do {
            try await connection.execute("SELECT 1", deadline: limits.healthCheckDeadline)
        } catch {
            connection.beginClosing()
        }
        apply { $0.release(connection, now: .now) }
    }

    // MARK: Deciding and doing

    private func apply(_ event: (inout PoolStateMachine) -> PoolStateMachine.Effects) {
        perform(machine.withLock { event(&$0) })
    }

    private func perform(_ effects: PoolStateMachine.Effects) {
        for (waiter, result) in effects.handovers { waiter.resume(with: result) }
        for connection in effects.closes { connection.beginClosing() }
        for _ in 0..<effects.opens { openingRequests.yield() }
        if effects.isDrained { drained.open() }
    }
}
