import Domain
package import Store
import Synchronization

/// Keys that were found valid, by the hash of their secret, until they change or grow old. A revoked key leaves at once:
/// the database says so on channel `route`. Bounded.
package final class KeyCache: Sendable {
    private struct Entry {
        var hash: [UInt8]
        var key: APIKeyRecord
        var goodUntil: ContinuousClock.Instant
    }

    private struct State {
        /// By the part of the hash that the database tells of a key that left. Two that share it take turns.
        var entries: [Prefix: Entry] = [:]
        var forgettings = 0
    }

    private let state = Mutex(State())
    private let lifetime: Duration
    private let limit: Int

    package init(limits: APILimits) {
        lifetime = limits.keyCacheLifetime
        limit = limits.keyCacheLimit
    }

    /// The key, if it is known and not old. Its own expiry is the caller's to check.
    func key(_ hash: [UInt8], now: ContinuousClock.Instant = .now) -> APIKeyRecord? {
        state.withLock { state in
            guard let entry = state.entries[Prefix(hash)], entry.hash == hash, entry.goodUntil > now else { return nil }
            return entry.key
        }
    }

    /// To be taken before asking the database: an answer that crossed a revocation on its way is not kept.
    var ticket: Int { state.withLock { $0.forgettings } }

    func keep(_ key: APIKeyRecord, hash: [UInt8], ticket: Int, now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            guard state.forgettings == ticket else { return }
            if state.entries.count >= limit { state.entries.removeAll() }  // rare, and cheaper than any order kept
            state.entries[Prefix(hash)] = Entry(hash: hash, key: key, goodUntil: now + lifetime)
        }
    }

    /// Forgets one key at once.
    func forget(_ hash: [UInt8]) { forget(Prefix(hash)) }

    private func forget(_ prefix: Prefix) {
        state.withLock { state in
            state.forgettings += 1
            state.entries[prefix] = nil
        }
    }

    /// What the database says on channel `route`.
    package func heed(_ change: RouteChange) {
        switch change {
        case .key(let digits):
            guard let prefix = Prefix(hexadecimal: digits) else { return forgetAll() }
            forget(prefix)
        case .organization(let id): forgetAll { $0.organizationID == id }
        case .resync: forgetAll()
        case .sandbox, .runner: break
        }
    }

    private func forgetAll(where isConcerned: (APIKeyRecord) -> Bool = { _ in true }) {
        state.withLock { state in
            state.forgettings += 1
            state.entries = state.entries.filter { !isConcerned($0.value.key) }
        }
    }
}

extension KeyCache {
    /// The first eight bytes of a hash.
    fileprivate struct Prefix: Hashable {
        private let bits: UInt64

        init(_ hash: [UInt8]) { bits = hash.prefix(8).reduce(0) { $0 << 8 | UInt64($1) } }

        /// Reads 16 hexadecimal digits; nil for anything else.
        init?(hexadecimal digits: String) {
            guard digits.utf8.count == 16, let bits = UInt64(digits, radix: 16) else { return nil }
            self.bits = bits
        }
    }
}
