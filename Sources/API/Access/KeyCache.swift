import Domain
package import Store
import Synchronization

/// Keys that were found valid, by the hash of their secret, until they change or grow old. A revoked key leaves at once:
/// the database says so on channel `route`. Bounded.
package final class KeyCache: Sendable {
    private struct Entry {
        var key: APIKeyRecord
        var goodUntil: ContinuousClock.Instant
    }

    private struct State {
        var entries: [[UInt8]: Entry] = [:]
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
            guard let entry = state.entries[hash], entry.goodUntil > now else { return nil }
            return entry.key
        }
    }

    /// To be taken before asking the database: an answer that crossed a revocation on its way is not kept.
    var ticket: Int { state.withLock { $0.forgettings } }

    func keep(_ key: APIKeyRecord, hash: [UInt8], ticket: Int, now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            guard state.forgettings == ticket else { return }
            if state.entries.count >= limit { state.entries.removeAll() }  // rare, and cheaper than any order kept
            state.entries[hash] = Entry(key: key, goodUntil: now + lifetime)
        }
    }

    /// Forgets one key at once.
    func forget(_ hash: [UInt8]) {
        state.withLock { state in
            state.forgettings += 1
            state.entries[hash] = nil
        }
    }

    /// What the database says on channel `route`.
    package func heed(_ change: RouteChange) {
        switch change {
        case .key(let digits):
            guard let hash = [UInt8](hexadecimal: digits) else { return forgetAll() }
            forget(hash)
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

extension [UInt8] {
    /// Reads 64 hexadecimal digits, which is a whole hash; nil for anything else.
    fileprivate init?(hexadecimal text: String) {
        let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 64, text.utf8.count == 64 else { return nil }
        self = stride(from: 0, to: 64, by: 2).map { UInt8(digits[$0] * 16 + digits[$0 + 1]) }
    }
}
