import Synchronization

/// Opens once; many may wait for it.
final class Latch: Sendable {
    private struct State {
        var isOpen = false
        var lastWaiter: UInt64 = 0
        var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
    }

    private let state = Mutex(State())

    var isOpen: Bool { state.withLock { $0.isOpen } }

    func open() {
        let waiters = state.withLock { state in
            state.isOpen = true
            defer { state.waiters = [:] }
            return state.waiters.values
        }
        for waiter in waiters { waiter.resume() }
    }

    /// Waits until it opens, even when the task is cancelled: for what is bounded by other means.
    func waitUninterrupted() async {
        await withCheckedContinuation { enqueue($0, as: newWaiter(), isInterrupted: { false }) }
    }

    /// Waits until it opens or the task is cancelled; answers whether it is open.
    func wait() async -> Bool {
        let waiter = newWaiter()
        await withTaskCancellationHandler {
            await withCheckedContinuation { enqueue($0, as: waiter, isInterrupted: { Task.isCancelled }) }
        } onCancel: {
            leave(waiter)
        }
        return isOpen
    }

    /// Waits until it opens, the time is over or the task is cancelled; answers whether it is open.
    func wait(for duration: Duration) async -> Bool {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { _ = await self.wait() }
            group.addTask { try? await Task.sleep(for: duration) }
            await group.next()
            group.cancelAll()
        }
        return isOpen
    }

    private func newWaiter() -> UInt64 {
        state.withLock { state in
            state.lastWaiter += 1
            return state.lastWaiter
        }
    }

    /// Asking for interruption under the lock means that a cancellation is either seen here or finds the waiter in place.
    private func enqueue(
        _ continuation: CheckedContinuation<Void, Never>,
        as waiter: UInt64,
        isInterrupted: () -> Bool
    ) {
        let isDone = state.withLock { state in
            if state.isOpen || isInterrupted() { return true }
            state.waiters[waiter] = continuation
            return false
        }
        if isDone { continuation.resume() }
    }

    private func leave(_ waiter: UInt64) {
        state.withLock { $0.waiters.removeValue(forKey: waiter) }?.resume()
    }
}
