import Synchronization

/// Containers that a capture of this process has paused, or is about to: nobody else resumes or ends them. Whatever is paused and
/// is not in here is resumed by its sandbox's next pass, so a runner that dies leaves nothing paused.
package final class PauseLedger: Sendable {
    private let held = Mutex<Set<String>>([])

    package init() {}

    /// False when another capture holds it.
    package func hold(_ container: String) -> Bool { held.withLock { $0.insert(container).inserted } }

    package func release(_ container: String) { held.withLock { _ = $0.remove(container) } }

    package func isHeld(_ container: String) -> Bool { held.withLock { $0.contains(container) } }
}
