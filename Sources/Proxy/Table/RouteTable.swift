import Crypto
import Domain
import FoundationEssentials
import Logging
import NIOCore
import Store

/// The SHA-256 of an API key; the key itself is never kept.
struct KeyHash: Hashable, Sendable {
    private let words: SIMD4<UInt64>

    init(_ digest: SHA256Digest) {
        words = digest.withUnsafeBytes { $0.loadUnaligned(as: SIMD4<UInt64>.self) }
    }

    var bytes: [UInt8] { withUnsafeBytes(of: words) { Array($0) } }
}

/// What the proxy knows of routes and keys. The database tells the truth, notifications make it fresh, and the
/// lifetimes bound how long a lost notification can matter.
final class RouteTable: Sendable {
    let destinations: LookupCache<SandboxID, Destination>
    let grants: LookupCache<KeyHash, KeyGrant>
    private let source: any RouteSource
    private let log: Logger

    init(source: any RouteSource, limits: ProxyLimits, log: Logger) {
        self.source = source
        self.log = log
        destinations = LookupCache(
            entriesLimit: limits.cacheEntriesLimit,
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
            log: log,
            lifetime: { $0 == nil ? limits.absenceLifetime : limits.keyLifetime },
            load: { try await source.grant(keyHash: $0.bytes) }
        )
    }

    /// Forgets what `change` touches.
    func apply(_ change: RouteChange) {
        switch change {
        case .sandbox(let id): destinations.forget(id)
        case .runner(let id): destinations.forget { $1 == nil || $1?.route.runner == id }
        case .organization(let id):
            grants.forget { $1 == nil || $1?.organization == id }
            destinations.forget { $1 == nil || $1?.route.organization == id }
        case .key(let prefix): grants.forget { key, _ in Hexadecimal.text(key.bytes).hasPrefix(prefix) }
        case .resync:
            grants.forget { _, _ in true }
            destinations.forget { _, _ in true }
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
