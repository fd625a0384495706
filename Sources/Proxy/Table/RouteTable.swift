import Crypto
import Domain
import FoundationEssentials
import Logging
import NIOCore
import Store

/// The SHA-256 of an API key; the key itself is never kept.
///
/// Equal tags count as equal, so that a message which carries only the tag finds the key in a cache at once. Whoever uses
/// what was found compares the whole hash: ``KnownGrant/grant(of:)``.
struct KeyHash: Hashable, Sendable {
    let tag: KeyTag
    private let words: SIMD4<UInt64>

    init(_ digest: SHA256Digest) {
        words = digest.withUnsafeBytes { $0.loadUnaligned(as: SIMD4<UInt64>.self) }
        tag = KeyTag(beginning: UInt64(bigEndian: words[0]))
    }

    /// A hash that finds what is kept under a tag, and is the same as none.
    init(tag: KeyTag) {
        words = .zero
        self.tag = tag
    }

    var bytes: [UInt8] { withUnsafeBytes(of: words) { Array($0) } }

    func isSame(as other: KeyHash) -> Bool { words == other.words }

    static func == (one: KeyHash, other: KeyHash) -> Bool { one.tag == other.tag }

    func hash(into hasher: inout Hasher) { hasher.combine(tag) }
}

/// What a key allows, and which key that is.
struct KnownGrant: Sendable {
    fileprivate let hash: KeyHash
    let grant: KeyGrant

    /// nil for another key with the same tag.
    func grant(of asked: KeyHash) -> KeyGrant? { hash.isSame(as: asked) ? grant : nil }
}

/// What the proxy knows of routes and keys. The database tells the truth, notifications make it fresh, and the
/// lifetimes bound how long a lost notification can matter, and how long an outage of the database does not.
final class RouteTable: Sendable {
    let destinations: LookupCache<SandboxID, Destination>
    let grants: LookupCache<KeyHash, KnownGrant>
    private let source: any RouteSource
    private let log: Logger

    init(source: any RouteSource, limits: ProxyLimits, log: Logger) {
        self.source = source
        self.log = log
        destinations = LookupCache(
            entriesLimit: limits.cacheEntriesLimit,
            outageLifetime: limits.outageLifetime,
            log: log,
            lifetime: { destination in
                guard let destination else { return limits.absenceLifetime }
                // What is not started is about to be: only those who waited may use the answer.
                return destination.isStarted ? limits.routeLifetime : .zero
            },
            load: { try await source.route(of: $0).map(Destination.init) }
        )
        grants = LookupCache(
            entriesLimit: limits.cacheEntriesLimit,
            loadsLimit: limits.keyLookupsAtOnceLimit,
            outageLifetime: limits.outageLifetime,
            log: log,
            lifetime: { $0 == nil ? limits.absenceLifetime : limits.keyLifetime },
            load: { hash in
                guard let grant = try await source.grant(keyHash: hash.bytes) else { return nil }
                return KnownGrant(hash: hash, grant: grant)
            }
        )
    }

    /// Forgets what `change` touches.
    func apply(_ change: RouteChange) {
        switch change {
        case .sandbox(let id): destinations.forget(id)
        case .runner(let id): destinations.forget { $1 == nil || $1?.route.runner == id }
        case .organization(let id):
            grants.forget { $1 == nil || $1?.grant.organization == id }
            destinations.forget { $1 == nil || $1?.route.organization == id }
        case .key(let tag): grants.forget(KeyHash(tag: tag))
        case .resync:
            grants.suspectAll()
            destinations.suspectAll()
        }
    }

    /// Answers lookups and follows changes until cancelled.
    func run() async {
        await withDiscardingTaskGroup { group in
            group.addTask { await self.destinations.run() }
            group.addTask { await self.grants.run() }
            group.addTask { await self.follow() }
        }
    }

    /// A follower that failed is started again; everything is forgotten then, by its first `.resync`.
    private func follow() async {
        while !Task.isCancelled {
            do {
                try await source.followChanges { self.apply($0) }
            } catch {
                log.warning("route changes cannot be followed", metadata: ["error": "\(error)"])
            }
            apply(.resync)
            try? await Task.sleep(for: .seconds(1))
        }
    }
}
