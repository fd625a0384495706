package import Domain
import Synchronization

/// Which sandboxes this process has held, and which containers no row explains.
///
/// A container is removed at once when its sandbox was seen placed here before and is not any more: it was fenced. One that was
/// never seen placed here is left alone for a grace, and looked at twice.
package final class HoldingLedger: Sendable {
    private struct State {
        var held: Set<SandboxID> = []
        var strangers: [SandboxID: Duration] = [:]
    }

    private let state = Mutex(State())
    private let grace: Duration

    package init(grace: Duration) { self.grace = grace }

    /// A row said that the sandbox is placed here.
    package func hold(_ sandbox: SandboxID) {
        state.withLock { state in
            state.held.insert(sandbox)
            state.strangers[sandbox] = nil
        }
    }

    package func isHeld(_ sandbox: SandboxID) -> Bool { state.withLock { $0.held.contains(sandbox) } }

    /// No row says so. Nil when what is left of it may be removed, else how long to wait before looking again.
    package func pause(beforeRemoving sandbox: SandboxID, now: Duration) -> Duration? {
        state.withLock { state in
            if state.held.contains(sandbox) { return nil }
            guard let since = state.strangers[sandbox] else {
                state.strangers[sandbox] = now
                return grace
            }
            let rest = since + grace - now
            return rest > .zero ? rest : nil
        }
    }

    /// Nothing of it is left.
    package func forget(_ sandbox: SandboxID) {
        state.withLock { state in
            state.held.remove(sandbox)
            state.strangers[sandbox] = nil
        }
    }
}
