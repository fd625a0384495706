/// What a pool knows. Each event changes it and answers what is to be done, which the caller does outside of the lock.
///
///             opened                     lease
///     opening ──────▶ (waiter) or idle ─────────▶ leased ──release──▶ (waiter) or idle
///        │ failed            │ reaped, shutdown      │ broken, in a transaction, shutdown
///        ▼                   ▼                       ▼
///     back-off, then      closing ──closed──▶ gone ◀─┘  (a connection lost by itself goes from anywhere)
///     opening or gone
///
/// Every connection counts against the limit until it is gone. While connecting fails, one at a time tries.
struct PoolStateMachine {
    struct Effects {
        var handovers: [(waiter: WaiterLine.Waiter, result: Result<PostgresConnection, any Error>)] = []
        var opens = 0
        var closes: [PostgresConnection] = []
        var isDrained = false
    }

    private struct Idle {
        let connection: PostgresConnection
        let since: ContinuousClock.Instant
        var checkedAt: ContinuousClock.Instant
    }

    private let configuration: PostgresPoolConfiguration
    private var idle: [Idle] = []  // by `since`: the last was used last, and is used first
    private var leased: [UInt64: PostgresConnection] = [:]
    private var checked: [UInt64: ContinuousClock.Instant] = [:]  // since when those were idle that are out for a check
    private var closing: [UInt64: PostgresConnection] = [:]
    private var requested = 0  // asked to be opened, not begun
    private var opening = 0
    private var line = WaiterLine()
    private var failures = 0
    private var lastFailure: PostgresError?
    private var isShutDown = false

    init(_ configuration: PostgresPoolConfiguration) { self.configuration = configuration }

    var status: PostgresPoolStatus {
        PostgresPoolStatus(
            limit: configuration.connectionLimit,
            idle: idle.count,
            inUse: leased.count,
            opening: requested + opening,
            closing: closing.count,
            waiting: line.count
        )
    }

    private var total: Int { idle.count + leased.count + closing.count + requested + opening }

    /// Nothing is left, and nothing will come.
    var isDrained: Bool { isShutDown && total == 0 }

    // MARK: Borrowers

    /// An idle connection, if there is one.
    mutating func leaseIdle() throws -> PostgresConnection? {
        if isShutDown { throw Self.closedError }
        while let entry = idle.popLast() {
            if entry.connection.isOpen {
                leased[entry.connection.id] = entry.connection
                return entry.connection
            }
            closing[entry.connection.id] = entry.connection  // its thread is about to say so
        }
        return nil
    }

    mutating func newTicket() -> UInt64 { line.newTicket() }

    /// Puts a caller in line. A connection may have come free since it looked.
    mutating func enqueue(_ waiter: WaiterLine.Waiter, ticket: UInt64, deadline: ContinuousClock.Instant) -> Effects {
        do {
            if let connection = try leaseIdle() { return Effects(handovers: [(waiter, .success(connection))]) }
            if ContinuousClock.now >= deadline { throw expiry }
            guard line.count < configuration.waiterLimit else { throw tooManyWaiters }
        } catch {
            return Effects(handovers: [(waiter, .failure(error))])
        }
        line.enter(waiter, ticket: ticket)
        return Effects(opens: takeOpens())
    }

    mutating func cancel(ticket: UInt64) -> Effects {
        guard let waiter = line.leave(ticket: ticket) else { return Effects() }
        return Effects(handovers: [(waiter, .failure(CancellationError()))])
    }

    mutating func expire(ticket: UInt64) -> Effects {
        let error = expiry
        guard let waiter = line.leave(ticket: ticket) else { return Effects() }
        return Effects(handovers: [(waiter, .failure(error))])
    }

    mutating func release(_ connection: PostgresConnection, now: ContinuousClock.Instant) -> Effects {
        let since = checked.removeValue(forKey: connection.id) ?? now
        guard leased.removeValue(forKey: connection.id) != nil else { return Effects() }
        return place(connection, idleSince: since, now: now)
    }

    /// To the first in line, else to the idle ones, else away.
    private mutating func place(
        _ connection: PostgresConnection,
        idleSince since: ContinuousClock.Instant,
        now: ContinuousClock.Instant
    ) -> Effects {
        if !connection.isOpen || connection.isInTransaction || isShutDown {
            closing[connection.id] = connection
            return Effects(closes: [connection])
        }
        if let waiter = line.popFirst() {
            leased[connection.id] = connection
            return Effects(handovers: [(waiter, .success(connection))], opens: takeOpens())
        }
        let place = idle.firstIndex { $0.since > since } ?? idle.endIndex
        idle.insert(Idle(connection: connection, since: since, checkedAt: now), at: place)
        return Effects()
    }

    // MARK: Connections

    /// How many more are wanted; each of them must then be begun by `beginOpening`.
    mutating func takeOpens() -> Int {
        guard !isShutDown else { return 0 }
        let wanted = max(line.count, configuration.minimumIdle - idle.count - leased.count) - requested - opening
        let room = configuration.connectionLimit - total
        let allowed = failures > 0 ? 1 - requested - opening : Int.max
        let opens = max(0, min(wanted, room, allowed))
        requested += opens
        return opens
    }

    /// Begins one that was asked for; false if the pool has been shut down since.
    mutating func beginOpening() -> Bool {
        guard requested > 0 else { return false }
        requested -= 1
        opening += 1
        return true
    }

    mutating func opened(_ connection: PostgresConnection, now: ContinuousClock.Instant) -> Effects {
        opening -= 1
        failures = 0
        lastFailure = nil
        guard connection.isOpen else { return Effects(opens: takeOpens(), isDrained: isDrained) }
        var effects = place(connection, idleSince: now, now: now)
        effects.opens += takeOpens()
        return effects
    }

    /// Keeps the place until `backedOff`. What no waiting helps against is told to those who wait now.
    mutating func openFailed(_ error: any Error) -> (effects: Effects, pause: Duration) {
        guard let error = error as? PostgresError else { return (Effects(), .zero) }
        var backoff = Backoff(first: configuration.firstBackoff, limit: configuration.backoffLimit, tries: failures)
        failures += 1
        lastFailure = error
        guard error.retry == .never else { return (Effects(), backoff.next()) }
        return (Effects(handovers: line.removeAll().map { ($0, .failure(error)) }), backoff.next())
    }

    mutating func backedOff() -> Effects {
        opening -= 1
        return Effects(opens: takeOpens(), isDrained: isDrained)
    }

    /// The connection's socket is closed, whatever the reason.
    mutating func closed(_ id: UInt64) -> Effects {
        closing[id] = nil
        leased[id] = nil
        checked[id] = nil
        idle.removeAll { $0.connection.id == id }
        return Effects(opens: takeOpens(), isDrained: isDrained)
    }

    // MARK: Upkeep

    /// Closes what has been idle too long, and takes out what is due for a health check: those come back by `release`.
    mutating func takeDue(now: ContinuousClock.Instant) -> (effects: Effects, checks: [PostgresConnection]) {
        var effects = Effects()
        let spare = idle.count - configuration.minimumIdle
        for entry in idle.prefix(max(0, spare)) where now - entry.since >= configuration.idleLimit {
            closing[entry.connection.id] = entry.connection
            effects.closes.append(entry.connection)
        }
        idle.removeAll { closing[$0.connection.id] != nil }
        let due = idle.filter { now - $0.checkedAt >= configuration.healthCheckInterval }
        idle.removeAll { now - $0.checkedAt >= configuration.healthCheckInterval }
        for entry in due {
            leased[entry.connection.id] = entry.connection
            checked[entry.connection.id] = entry.since
        }
        effects.opens = takeOpens()
        return (effects, due.map(\.connection))
    }

    mutating func shutDown() -> Effects {
        isShutDown = true
        requested = 0
        var effects = Effects(handovers: line.removeAll().map { ($0, .failure(Self.closedError)) })
        effects.closes = idle.map(\.connection)
        for entry in idle { closing[entry.connection.id] = entry.connection }
        idle = []
        effects.isDrained = isDrained
        return effects
    }

    /// The grace is over: what is still out is closed under its borrower.
    func overdue() -> Effects { Effects(closes: Array(leased.values)) }

    // MARK: Errors

    private static let closedError = PostgresError(.poolClosed, "the pool is shut down")

    private var expiry: PostgresError {
        var message = "no connection came free within \(configuration.acquisitionDeadline): \(status)"
        if let lastFailure { message += "; the last of \(failures) failed attempts to connect: \(lastFailure)" }
        return PostgresError(.acquisitionDeadlineExceeded, message)
    }

    private var tooManyWaiters: PostgresError {
        PostgresError(
            .tooManyWaiters,
            "\(line.count) callers wait for a connection, the limit is \(configuration.waiterLimit)"
        )
    }
}
