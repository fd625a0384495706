import CLibPQ
import Glibc
import Synchronization

/// A cancel request on its way to the server. `PQcancel` connects and blocks, so it has a thread of its own; that thread
/// ends with the call, which `tcp_user_timeout` bounds.
final class CancelRequest: Sendable {
    enum Outcome: Sendable { case underWay, delivered, failed }

    private let state = Mutex(Outcome.underWay)

    /// When the connection's thread stops waiting and gives the connection up.
    let givesUpAt: ContinuousClock.Instant
    let interruption: Interruption

    var outcome: Outcome { state.withLock { $0 } }

    /// Starts a request for whatever the connection is doing; `wake` is raised when the outcome is known.
    init(for connection: OpaquePointer, because interruption: Interruption, grace: Duration, wake: WakeSignal) {
        self.interruption = interruption
        givesUpAt = .now + grace
        guard let handle = PQgetCancel(connection) else {
            state.withLock { $0 = .failed }
            return
        }
        let errand = Errand(handle: handle, request: self, wake: wake)
        if !startThread(errand, run: { $0.run() }) {
            PQfreeCancel(handle)
            state.withLock { $0 = .failed }
        }
    }

    private final class Errand {
        let handle: OpaquePointer
        let request: CancelRequest
        let wake: WakeSignal

        init(handle: OpaquePointer, request: CancelRequest, wake: WakeSignal) {
            self.handle = handle
            self.request = request
            self.wake = wake
        }

        func run() {
            var message = [CChar](repeating: 0, count: 256)
            let isDelivered = PQcancel(handle, &message, Int32(message.count)) == 1
            PQfreeCancel(handle)
            request.state.withLock { $0 = isDelivered ? .delivered : .failed }
            wake.raise()
        }
    }
}
