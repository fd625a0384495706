package import Domain
package import Firewall
package import Logging
import Synchronization

/// Which placement rules belong to.
package struct PlacementKey: Sendable, Hashable, CustomStringConvertible {
    package let sandbox: SandboxID
    package let epoch: Int64

    package init(_ sandbox: SandboxID, epoch: Int64) {
        self.sandbox = sandbox
        self.epoch = epoch
    }

    package var description: String { "\(sandbox)@\(epoch)" }
}

/// Owns the runner's rules in the kernel: the set that should be there, and one application of it at a time.
///
/// Whoever changes the set waits for an application that began after the change; all changes that come while one application
/// runs are served by the next one together. So a hundred creates cost a handful of applications, not a hundred.
///
/// Every application reads the kernel first: an answer means that the rules are there, not that they once were.
package final class FirewallKeeper: Sendable {
    private struct Waiter {
        let id: UInt64
        let continuation: CheckedContinuation<Void, any Error>
    }

    private struct State {
        /// What should be in the kernel.
        var entries: [PlacementKey: SandboxFirewall] = [:]
        /// What was there when last applied or verified.
        var applied: [PlacementKey: SandboxFirewall] = [:]
        var waiters: [Waiter] = []
        var nextWaiter: UInt64 = 0
        /// Waiters that have a number and do not stand in line yet.
        var arriving: Set<UInt64> = []
        var isClosed = false
    }

    private let kernel: KernelFirewall
    let host: HostFirewall
    private let logger: Logger
    private let state = Mutex(State())
    private let wakes: AsyncStream<Void>
    private let wake: AsyncStream<Void>.Continuation

    package init(kernel: KernelFirewall, host: HostFirewall, logger: Logger) {
        self.kernel = kernel
        self.host = host
        self.logger = logger
        (wakes, wake) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    }

    /// Applies what is asked for, until its task is cancelled. To be called once; without it nobody is answered.
    package func run() async {
        for await _ in wakes {
            while await applyOnce() {}
        }
        answer(close(), with: .failure(CancellationError()))
    }

    /// The rules are in the kernel when this returns.
    ///
    /// Throws `addressHeld` while the address still belongs to another placement: its container or its rules are there yet.
    package func ensure(_ rules: SandboxFirewall, for key: PlacementKey) async throws {
        try state.withLock { state in
            if let holder = state.entries.first(where: { $0.key != key && $0.value.slot == rules.slot })?.key {
                throw RunnerError(
                    .addressHeld,
                    "address \(rules.address) still belongs to \(holder), which is being removed; it is tried again"
                )
            }
            state.entries[key] = rules
        }
        try await nextApplication()
    }

    /// The rules of `sandbox`, of `epoch` or of all its epochs, are gone from the kernel when this returns.
    /// To be called only when the container is gone.
    package func remove(_ sandbox: SandboxID, epoch: Int64? = nil) async throws {
        let hadAny = state.withLock { state in
            let keys = state.entries.keys.filter { $0.sandbox == sandbox && (epoch == nil || $0.epoch == epoch) }
            for key in keys { state.entries[key] = nil }
            return !keys.isEmpty
                || state.applied.keys.contains { $0.sandbox == sandbox && (epoch == nil || $0.epoch == epoch) }
        }
        if hadAny { try await nextApplication() }
    }

    /// Adds rules for containers that are there already and have none in the set. Never changes any: what was found was read
    /// a while ago, and a pass may have brought newer ones since. Leaves alone what another placement's rules hold. They are in
    /// the kernel after the next ``verify()``. Returns whether the set was changed.
    package func adopt(_ found: [PlacementKey: SandboxFirewall]) -> Bool {
        state.withLock { state in
            let before = state.entries.count
            var slots = Dictionary(state.entries.map { ($0.value.slot, $0.key) }) { first, _ in first }
            for (key, rules) in found where state.entries[key] == nil && slots[rules.slot] == nil {
                state.entries[key] = rules
                slots[rules.slot] = key
            }
            return state.entries.count != before
        }
    }

    /// Compares the kernel with the set, and heals it.
    package func verify() async throws { try await nextApplication() }

    /// Placements that have rules, or should.
    package var keys: Set<PlacementKey> { state.withLock { Set($0.entries.keys).union($0.applied.keys) } }

    /// What the last application or verification knew.
    package func observation(of key: PlacementKey, wanted: SandboxFirewall?) -> RulesObservation {
        state.withLock { state in
            guard let applied = state.applied[key] else { return state.entries[key] == nil ? .absent : .differing }
            return applied == wanted && state.entries[key] == wanted ? .current : .differing
        }
    }

    // MARK: - Applications

    /// False when there was nothing to do.
    private func applyOnce() async -> Bool {
        let (waiters, entries) = state.withLock { state in
            defer { state.waiters = [] }
            return (state.waiters, state.entries)
        }
        guard !waiters.isEmpty else { return false }
        do {
            // Without it two neighbours meet on the bridge whatever the rules say, so no rule counts as applied.
            try await kernel.requireBridgeFiltering()
            let changed = try await kernel.converge(host: host, sandboxes: Array(entries.values))
            let knew = state.withLock { state in
                defer { state.applied = entries }
                return state.applied == entries
            }
            if changed, knew { logger.warning("firewall rules had been changed by somebody else and are healed") }
            answer(waiters, with: .success(()))
        } catch {
            answer(waiters, with: .failure(error))
        }
        return true
    }

    private func answer(_ waiters: [Waiter], with result: Result<Void, any Error>) {
        for waiter in waiters { waiter.continuation.resume(with: result) }
    }

    private func close() -> [Waiter] {
        state.withLock { state in
            state.isClosed = true
            defer { state.waiters = [] }
            return state.waiters
        }
    }

    private func nextApplication() async throws {
        let id = state.withLock { state in
            state.nextWaiter += 1
            state.arriving.insert(state.nextWaiter)
            return state.nextWaiter
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { enqueue(Waiter(id: id, continuation: $0)) }
        } onCancel: {
            cancel(id)
        }
    }

    private func enqueue(_ waiter: Waiter) {
        let isWelcome = state.withLock { state in
            guard state.arriving.remove(waiter.id) != nil, !state.isClosed else { return false }
            state.waiters.append(waiter)
            return true
        }
        if isWelcome { wake.yield() } else { waiter.continuation.resume(throwing: CancellationError()) }
    }

    /// A waiter that an application under way serves is answered by that.
    private func cancel(_ id: UInt64) {
        let waiter = state.withLock { state -> Waiter? in
            if state.arriving.remove(id) != nil { return nil }
            return state.waiters.firstIndex { $0.id == id }.map { state.waiters.remove(at: $0) }
        }
        waiter?.continuation.resume(throwing: CancellationError())
    }
}
