import Synchronization

/// Hands things from several tasks to one, without storing any: who gives waits until his thing is taken.
final class Handover<Thing: Sendable>: Sendable {
    private struct State {
        var givers: [(thing: Thing, task: CheckedContinuation<Void, Never>)] = []
        var taker: CheckedContinuation<Thing?, Never>?
        var isFinished = false
    }

    private let state = Mutex(State())

    /// Waits until it was taken, or dropped by `dropAll`.
    func give(_ thing: Thing) async {
        await withCheckedContinuation { giver in
            let (taker, waits) = state.withLock { state -> (CheckedContinuation<Thing?, Never>?, Bool) in
                if let taker = state.taker {
                    state.taker = nil
                    return (taker, false)
                }
                if !state.isFinished { state.givers.append((thing, giver)) }
                return (nil, !state.isFinished)
            }
            taker?.resume(returning: thing)
            if !waits { giver.resume() }
        }
    }

    /// The next thing; nil after `finish`. For one task at a time.
    func take() async -> Thing? {
        await withCheckedContinuation { taker in
            let giver = state.withLock { state -> (thing: Thing?, task: CheckedContinuation<Void, Never>?)? in
                if !state.givers.isEmpty {
                    let first = state.givers.removeFirst()
                    return (first.thing, first.task)
                }
                if state.isFinished { return (nil, nil) }
                precondition(state.taker == nil, "two tasks take from one handover")
                state.taker = taker
                return nil
            }
            guard let giver else { return }
            taker.resume(returning: giver.thing)
            giver.task?.resume()
        }
    }

    /// Lets all who give go on without their thing being taken; answers how many there were.
    @discardableResult
    func dropAll() -> Int {
        let givers = state.withLock { state in
            defer { state.givers = [] }
            return state.givers
        }
        for giver in givers { giver.task.resume() }
        return givers.count
    }

    /// Nothing comes any more.
    func finish() {
        let taker = state.withLock { state in
            state.isFinished = true
            defer { state.taker = nil }
            return state.taker
        }
        taker?.resume(returning: nil)
    }
}
