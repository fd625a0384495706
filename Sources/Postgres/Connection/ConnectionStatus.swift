import Logging
import Synchronization

/// A notification as it arrived.
struct Notification: Sendable {
    let channel: String
    let payload: String
}

/// What a connection's thread tells the world: state to read at any time, and what to do with what arrives unasked.
final class ConnectionStatus: Sendable {
    struct State {
        var isOpen = false
        var isInTransaction = false
        var backendPID: Int32 = 0
    }

    private let state = Mutex(State())
    let logger: Logger
    /// Called on the connection's thread; must not block.
    let onNotification: @Sendable (Notification) -> Void

    init(logger: Logger, onNotification: @escaping @Sendable (Notification) -> Void) {
        self.logger = logger
        self.onNotification = onNotification
    }

    var now: State { state.withLock { $0 } }

    func update(_ change: (inout State) -> Void) { state.withLock { change(&$0) } }
}
