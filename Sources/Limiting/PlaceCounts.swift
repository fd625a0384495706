import Synchronization

/// How many connections are open: in all, and of each place or whatever else may have some.
package final class PlaceCounts<Key: Hashable & Sendable>: Sendable {
    private struct State {
        var total = 0
        var counts: [Key: Int] = [:]
    }

    private let state = Mutex(State())
    private let limit: Int
    private let totalLimit: Int

    package init(limit: Int, totalLimit: Int = .max) {
        self.limit = limit
        self.totalLimit = totalLimit
    }

    package var total: Int { state.withLock { $0.total } }

    /// Enters a connection; false where a limit is reached. ``leave(_:)`` gives it back.
    package func admit(_ key: Key) -> Bool {
        state.withLock { state in
            guard state.total < totalLimit, state.counts[key, default: 0] < limit else { return false }
            state.total += 1
            state.counts[key, default: 0] += 1
            return true
        }
    }

    package func leave(_ key: Key) {
        state.withLock { state in
            state.total -= 1
            let rest = state.counts[key, default: 1] - 1
            state.counts[key] = rest > 0 ? rest : nil
        }
    }
}
