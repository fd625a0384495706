import Synchronization

/// Who executes in a context and who waits for it, first come, first served. Pure; `TurnLine` acts on it.
struct TurnQueue {
    enum Entry: Equatable {
        /// It is the newcomer's turn.
        case turn
        case waits
        /// Refused: `limit` others wait.
        case full
        /// Refused: the context is deleted.
        case closed
    }

    private(set) var holder: Int?
    private(set) var waiting: [Int] = []
    private(set) var isClosed = false
    private let limit: Int

    init(limit: Int) {
        self.limit = limit
    }

    mutating func enter(_ ticket: Int) -> Entry {
        guard !isClosed else { return .closed }
        guard holder != nil else {
            holder = ticket
            return .turn
        }
        guard waiting.count < limit else { return .full }
        waiting.append(ticket)
        return .waits
    }

    /// Ends the turn or the waiting of a ticket; answers whose turn begins by that.
    mutating func leave(_ ticket: Int) -> Int? {
        guard holder == ticket else {
            waiting.removeAll { $0 == ticket }
            return nil
        }
        holder = waiting.isEmpty ? nil : waiting.removeFirst()
        return holder
    }

    /// Refuses everyone from now on; answers who waited in vain. Who has the turn keeps it.
    mutating func close() -> [Int] {
        isClosed = true
        defer { waiting = [] }
        return waiting
    }
}

/// Why an execution does not get its turn.
enum TurnRefusal: Error, Equatable {
    case full
    case closed
}

/// Lets the executions of a context in, one after the other.
final class TurnLine: Sendable {
    private struct State {
        var queue: TurnQueue
        var nextTicket = 0
        var sleepers: [Int: CheckedContinuation<Void, any Error>] = [:]
    }

    private let state: Mutex<State>

    init(limit: Int = InterpreterLimit.waiting) {
        state = Mutex(State(queue: TurnQueue(limit: limit)))
    }

    /// Waits for the turn; the ticket is to be given to `leave`.
    /// - Throws: `TurnRefusal`, or `CancellationError` if the task is cancelled before its turn.
    func enter() async throws -> Int {
        let ticket = state.withLock { state in
            state.nextTicket += 1
            return state.nextTicket
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { sleeper in
                if let answer = admit(ticket, sleeper) { sleeper.resume(with: answer) }
            }
        } onCancel: {
            let sleeper = state.withLock { state in
                guard let sleeper = state.sleepers.removeValue(forKey: ticket) else {
                    return nil as CheckedContinuation<Void, any Error>?
                }
                _ = state.queue.leave(ticket)  // it waits, so nobody's turn begins
                return sleeper
            }
            sleeper?.resume(throwing: CancellationError())
        }
        return ticket
    }

    /// Ends a turn.
    func leave(_ ticket: Int) {
        let next = state.withLock { state in
            state.queue.leave(ticket).flatMap { state.sleepers.removeValue(forKey: $0) }
        }
        next?.resume()
    }

    /// Refuses everyone who waits or comes later.
    func close() {
        let refused = state.withLock { state in
            state.queue.close().compactMap { state.sleepers.removeValue(forKey: $0) }
        }
        for sleeper in refused { sleeper.resume(throwing: TurnRefusal.closed) }
    }

    var isClosed: Bool { state.withLock { $0.queue.isClosed } }

    /// How many wait.
    var waitingCount: Int { state.withLock { $0.queue.waiting.count } }

    /// Nil if the sleeper was put to sleep. A cancellation before this is seen here, one after it finds the sleeper.
    private func admit(_ ticket: Int, _ sleeper: CheckedContinuation<Void, any Error>) -> Result<Void, any Error>? {
        state.withLock { state in
            if Task.isCancelled { return .failure(CancellationError()) }
            switch state.queue.enter(ticket) {
            case .turn: return .success(())
            case .full: return .failure(TurnRefusal.full)
            case .closed: return .failure(TurnRefusal.closed)
            case .waits:
                state.sleepers[ticket] = sleeper
                return nil
            }
        }
    }
}
