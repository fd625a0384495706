/// How an execution is stopped before its end. Pure; `ExecutionStop` acts on it.
///
///     waiting ──begins──▶ running ──stop──▶ interrupted ──grace──▶ killed ──grace──▶ given up
///        └──stop──▶ asked ──begins──▶ interrupted
///                     └──grace──▶ killed
///
/// Every phase ends with `finish`. SIGINT is only sent when the worker has said that the code runs: earlier it is ignored there.
struct StopMachine {
    enum Cause: Equatable {
        case timeout
        case clientGone
    }

    enum Phase: Equatable {
        case waiting
        case running
        case asked(Cause)
        case interrupted(Cause)
        case killed(Cause)
        case givenUp(Cause)
        case finished
    }

    enum Action: Equatable {
        case interrupt
        /// Come back with `graceIsOver`.
        case startGrace
        case kill
        /// Stop waiting for a client that does not take what is left of the output.
        case giveUpClient
    }

    private(set) var phase = Phase.waiting

    /// Why it is being stopped, nil if it is not.
    var cause: Cause? {
        switch phase {
        case .waiting, .running, .finished: nil
        case .asked(let cause), .interrupted(let cause), .killed(let cause), .givenUp(let cause): cause
        }
    }

    var wasKilled: Bool {
        switch phase {
        case .killed, .givenUp: true
        case .waiting, .running, .asked, .interrupted, .finished: false
        }
    }

    mutating func begins() -> [Action] {
        switch phase {
        case .waiting:
            phase = .running
            return []
        case .asked(let cause):
            phase = .interrupted(cause)
            return [.interrupt]
        case .running, .interrupted, .killed, .givenUp, .finished: return []
        }
    }

    /// The first cause counts.
    mutating func stop(_ cause: Cause) -> [Action] {
        switch phase {
        case .waiting:
            phase = .asked(cause)
            return [.startGrace]
        case .running:
            phase = .interrupted(cause)
            return [.interrupt, .startGrace]
        case .asked, .interrupted, .killed, .givenUp, .finished: return []
        }
    }

    mutating func graceIsOver() -> [Action] {
        switch phase {
        case .asked(let cause), .interrupted(let cause):
            phase = .killed(cause)
            return [.kill, .startGrace]
        case .killed(let cause):
            phase = .givenUp(cause)
            return [.giveUpClient]
        case .waiting, .running, .givenUp, .finished: return []
        }
    }

    mutating func finish() {
        phase = .finished
    }
}
