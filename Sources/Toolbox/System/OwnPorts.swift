import Synchronization

/// The ports on which the daemon itself listens: its server, the web terminal, SSH. They are not the user's business.
final class OwnPorts: Sendable {
    private let ports = Mutex<Set<Int>>([])

    /// Until the daemon ends.
    func insert(_ port: Int) { ports.withLock { _ = $0.insert(port) } }

    var all: Set<Int> { ports.withLock { $0 } }
}
