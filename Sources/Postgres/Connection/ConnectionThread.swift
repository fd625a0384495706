import Synchronization

/// The one thread that touches a PGconn. It runs jobs in order; between jobs it sleeps in `poll` on the socket and on the
/// wake signal, so that notifications and the loss of the connection are noticed at once, and idling costs nothing.
///
///     started ──job…──▶ running ──stop() or connection lost──▶ draining ──▶ finished
///
/// Jobs left over when it drains still run, on a session that is closed, so each of them fails by itself.
final class ConnectionThread: Sendable {
    typealias Job = @Sendable (Session) -> Void

    private struct State {
        var jobs: [Job] = []
        var isStopping = false
        var isFinished = false
    }

    private let state = Mutex(State())
    let wake: WakeSignal
    /// Opens when the thread has closed its connection.
    let finished = Latch()
    private let onFinish: @Sendable () -> Void

    /// Starts the thread; the session is made on it and never leaves it. `onFinish` is called on it, last.
    init(
        makeSession: @escaping @Sendable (WakeSignal) -> Session,
        onFinish: @escaping @Sendable () -> Void
    ) throws {
        wake = try WakeSignal()
        self.onFinish = onFinish
        let isStarted = startThread((self, makeSession)) { thread, makeSession in
            thread.main(makeSession(thread.wake))
        }
        guard isStarted else {
            throw PostgresError(.connectionFailed, "no thread for a connection: the system is out of them")
        }
    }

    /// Queues a job; answers false, without running it, if the thread has finished.
    func submit(_ job: @escaping Job) -> Bool {
        let isAccepted = state.withLock { state in
            if !state.isFinished { state.jobs.append(job) }
            return !state.isFinished
        }
        if isAccepted { wake.raise() }
        return isAccepted
    }

    /// Asks the thread to end after the job it is at.
    func stop() {
        state.withLock { $0.isStopping = true }
        wake.raise()
    }

    private func main(_ session: Session) {
        while let job = nextJob(session) { job(session) }
        session.close()
        let left = state.withLock { state in
            state.isFinished = true
            defer { state.jobs = [] }
            return state.jobs
        }
        for job in left { job(session) }
        onFinish()
        finished.open()
    }

    private func nextJob(_ session: Session) -> Job? {
        while true {
            let (job, isStopping) = state.withLock { state in
                (state.isStopping || state.jobs.isEmpty ? nil : state.jobs.removeFirst(), state.isStopping)
            }
            if isStopping { return nil }
            if let job { return job }
            if session.isClosed { return nil }
            session.idle()
        }
    }
}
