import Synchronization

/// How many connections each address, or whatever else may have some, has open.
package final class PlaceCounts<Key: Hashable & Sendable>: Sendable {
    private let counts = Mutex<[Key: Int]>([:])
    private let limit: Int

    package init(limit: Int) { self.limit = limit }

    /// Enters a connection; false where the key has all it may have. ``leave(_:)`` gives it back.
    package func admit(_ key: Key) -> Bool {
        counts.withLock { counts in
            guard counts[key, default: 0] < limit else { return false }
            counts[key, default: 0] += 1
            return true
        }
    }

    package func leave(_ key: Key) {
        counts.withLock { counts in
            let rest = counts[key, default: 1] - 1
            counts[key] = rest > 0 ? rest : nil
        }
    }
}
