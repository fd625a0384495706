import Synchronization

/// Counts failed attempts to log in by address within a window. Bounded: when too many addresses fail, all counts begin anew.
package final class FailedAttempts: Sendable {
    private struct State {
        var counts: [String: Int] = [:]
        var windowEnds: ContinuousClock.Instant = .now
    }

    private static let addressLimit = 10_000

    private let state = Mutex(State())
    private let limit: Int
    private let window: Duration

    package init(limit: Int, window: Duration) {
        self.limit = limit
        self.window = window
    }

    /// Whether the address has used up its tries.
    package func isExhausted(_ address: String, now: ContinuousClock.Instant = .now) -> Bool {
        state.withLock { state in state.windowEnds > now && state.counts[address, default: 0] >= limit }
    }

    package func note(_ address: String, now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            if state.windowEnds <= now || state.counts.count >= Self.addressLimit {
                state.counts.removeAll()
                state.windowEnds = now + window
            }
            state.counts[address, default: 0] += 1
        }
    }
}
