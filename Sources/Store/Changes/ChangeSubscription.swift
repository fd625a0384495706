import Synchronization

/// Remembers that something changed until somebody asks. For one waiter at a time.
package final class ChangeSubscription: Sendable {
    private struct State {
        var isChanged = false
        var waiter: CheckedContinuation<Void, Never>?
    }

    private let state = Mutex(State())

    /// Waits for the next change: answers at once if there was one since the last call. Answers also when the time is over
    /// or the task is cancelled; the caller reads the row in any case.
    package func next(within limit: Duration) async {
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.changed() }
            group.addTask { try? await Task.sleep(for: limit) }
            await group.next()
            group.cancelAll()
        }
    }

    /// Something changed.
    func wake() {
        let waiter = state.withLock { state in
            state.isChanged = state.waiter == nil
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    private func changed() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { enqueue($0) }
        } onCancel: {
            let waiter = state.withLock { state in
                defer { state.waiter = nil }
                return state.waiter
            }
            waiter?.resume()
        }
    }

    /// Asking for cancellation under the lock means that it is either seen here or finds the waiter in place.
    private func enqueue(_ waiter: CheckedContinuation<Void, Never>) {
        let isDone = state.withLock { state in
            if state.isChanged || Task.isCancelled {
                state.isChanged = false
                return true
            }
            state.waiter = waiter
            return false
        }
        if isDone { waiter.resume() }
    }
}
