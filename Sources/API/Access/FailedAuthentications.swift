import Synchronization

/// Counts failed authentications by address within a window. Bounded: when too many addresses fail, all counts begin anew.
final class FailedAuthentications: Sendable {
    private struct State {
        var counts: [String: Int] = [:]
        var windowEnds: ContinuousClock.Instant = .now
    }

    private static let addressLimit = 10_000

    private let state = Mutex(State())
    private let limit: Int
    private let window: Duration

    init(limits: APILimits) {
        limit = limits.failedAuthenticationLimit
        window = limits.failedAuthenticationWindow
    }

    /// Whether the address has used up its tries.
    func isExhausted(_ address: String, now: ContinuousClock.Instant = .now) -> Bool {
        state.withLock { state in state.windowEnds > now && state.counts[address, default: 0] >= limit }
    }

    func note(_ address: String, now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            if state.windowEnds <= now || state.counts.count >= Self.addressLimit {
                state.counts.removeAll()
                state.windowEnds = now + window
            }
            state.counts[address, default: 0] += 1
        }
    }
}
