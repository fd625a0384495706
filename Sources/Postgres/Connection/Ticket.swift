import Synchronization

/// The right of one piece of work to its connection's thread: until when, and whether its caller still wants it.
final class Ticket: Sendable {
    let allowance: Duration
    let deadline: ContinuousClock.Instant
    private let cancelled = Atomic(false)

    init(for allowance: Duration) {
        self.allowance = allowance
        deadline = .now + allowance
    }

    var isCancelled: Bool { cancelled.load(ordering: .acquiring) }

    func cancel() { cancelled.store(true, ordering: .releasing) }

    /// Why the work must not begin or go on; nil if it may.
    var interruption: Interruption? {
        if isCancelled { return .cancelled }
        return ContinuousClock.now >= deadline ? .deadline(allowance) : nil
    }
}

/// Why a statement is stopped.
enum Interruption: Sendable {
    case cancelled
    case deadline(Duration)

    var error: any Error {
        switch self {
        case .cancelled: CancellationError()
        case .deadline(let allowance):
            PostgresError(.deadlineExceeded, "the statement did not end within its deadline of \(allowance)")
        }
    }
}
