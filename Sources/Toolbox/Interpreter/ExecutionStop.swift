import NIOCore
import Synchronization

/// Stops an execution: at its timeout, or when its client is gone.
final class ExecutionStop: Sendable {
    private struct State {
        var machine = StopMachine()
        var timers: [Scheduled<Void>] = []
        var delivery: EventLoopFuture<Void>?
    }

    private let state = Mutex(State())
    private let worker: InterpreterWorker
    private let loop: any EventLoop
    private let giveUpClient: @Sendable () -> Void

    init(_ worker: InterpreterWorker, on loop: any EventLoop, giveUpClient: @escaping @Sendable () -> Void) {
        self.worker = worker
        self.loop = loop
        self.giveUpClient = giveUpClient
    }

    var cause: StopMachine.Cause? { state.withLock { $0.machine.cause } }

    /// From now on the time counts, also that of a worker which does not get to run the code.
    func startTimer(_ timeout: Duration?) {
        if let timeout { schedule(after: timeout) { $0.act { $0.stop(.timeout) } } }
    }

    /// The code runs, and can be interrupted.
    func begins() { act { $0.begins() } }

    func clientIsGone() { act { $0.stop(.clientGone) } }

    /// The execution has ended. Waits until a SIGINT that was sent has arrived, lest it hit the next one.
    /// - Returns: why it was stopped, if it was, and whether by killing.
    func finish() async -> (cause: StopMachine.Cause?, wasKilled: Bool) {
        let (machine, timers, delivery) = state.withLock { state in
            let machine = state.machine
            state.machine.finish()
            defer { state.timers = [] }
            return (machine, state.timers, state.delivery)
        }
        for timer in timers { timer.cancel() }
        try? await delivery?.get()
        return (machine.cause, machine.wasKilled)
    }

    private func act(_ change: (inout StopMachine) -> [StopMachine.Action]) {
        let (actions, delivery) = state.withLock { state -> ([StopMachine.Action], EventLoopPromise<Void>?) in
            let actions = change(&state.machine)
            guard actions.contains(.interrupt) else { return (actions, nil) }
            // Known before it is sent, so that `finish` cannot miss it.
            let delivery = loop.makePromise(of: Void.self)
            state.delivery = delivery.futureResult
            return (actions, delivery)
        }
        for action in actions { perform(action, delivery) }
    }

    private func perform(_ action: StopMachine.Action, _ delivery: EventLoopPromise<Void>?) {
        switch action {
        case .interrupt: worker.interrupt().cascade(to: delivery)
        case .startGrace: schedule(after: InterpreterLimit.interruptGrace) { $0.act { $0.graceIsOver() } }
        case .kill: worker.kill()
        case .giveUpClient: giveUpClient()
        }
    }

    private func schedule(after time: Duration, _ action: @escaping @Sendable (ExecutionStop) -> Void) {
        let timer = loop.scheduleTask(in: TimeAmount(time)) { [self] in action(self) }
        let isFinished = state.withLock { state in
            state.timers.append(timer)
            return state.machine.phase == .finished
        }
        if isFinished { timer.cancel() }
    }
}
