import Synchronization

/// Counts failed attempts to log in by place within a window. Bounded: when too many places fail, all counts begin anew.
package final class FailedAttempts: Sendable {
    private struct State {
        var counts: [Place: Int] = [:]
        var windowEnds: ContinuousClock.Instant = .now
    }

    private static let placeLimit = 10_000

    private let state = Mutex(State())
    private let limit: Int
    private let window: Duration

    package init(limit: Int, window: Duration) {
        self.limit = limit
        self.window = window
    }

    /// Whether the place has used up its tries.
    package func isExhausted(_ place: Place, now: ContinuousClock.Instant = .now) -> Bool {
        state.withLock { state in state.windowEnds > now && state.counts[place, default: 0] >= limit }
    }

    package func note(_ place: Place, now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            if state.windowEnds <= now || state.counts.count >= Self.placeLimit {
                state.counts.removeAll()
                state.windowEnds = now + window
            }
            state.counts[place, default: 0] += 1
        }
    }
}
