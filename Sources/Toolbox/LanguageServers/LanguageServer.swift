import HTTPTypes
package import Logging
package import NIOCore
import Synchronization

/// What servers are started with.
package struct LanguageServerSurroundings: Sendable {
    package var processes: ProcessTable
    package var environment: EnvironmentStore
    package var patience: LanguageServerPatience
    package var loops: any EventLoopGroup
    package var logger: Logger
}

/// The server of one project. It is started once, however many ask at a time, and again at the next call after it ended by
/// itself: at once the first time, after a pause that doubles when it keeps ending.
///
///     ──start──▶ starting ──▶ running ──ended by itself──▶ resting ──next call, pause over──▶ starting
///                    │           │                            │
///                    └───────────┴────────── stop ────────────┴──▶ stopped, for ever
package final class LanguageServer: Sendable {
    private struct State {
        /// Starting or running; nil when resting or stopped.
        var life: Task<ServerSession, any Error>?
        var number = 0
        var began = ContinuousClock.now
        var isStopped = false
        /// Documents to open in the next life.
        var documents: [String] = []
        /// Lives in a row that ended early.
        var failures = 0
        var restsUntil = ContinuousClock.now
        var lastEnd = ""
    }

    package let project: ServerProject
    private let surroundings: LanguageServerSurroundings
    private let state = Mutex(State())

    package init(_ project: ServerProject, _ surroundings: LanguageServerSurroundings) {
        (self.project, self.surroundings) = (project, surroundings)
    }

    /// Starts it unless it runs, without regard to a pause; joins a start that is under way.
    /// - Throws: whatever kept it from starting.
    package func start() async throws {
        _ = try await session(atOnce: true)
    }

    /// Runs a call on the running server. A call whose server is lost under it is made once more, on a new one.
    package func perform<Value>(_ call: (ServerSession) async throws -> Value) async throws -> Value {
        let session = try await session()
        do {
            return try await call(session)
        } catch is ServerLost {
            try await session.dialect.connection.ended.get()
            return try await call(try await self.session())
        }
    }

    /// Asks the server to end, kills what is left of it, and lets it never start again.
    package func stop() async {
        let life = state.withLock { state in
            state.isStopped = true
            defer { state.life = nil }
            return state.life
        }
        // A start that is under way gives up and cleans up.
        life?.cancel()
        guard let session = try? await life?.value else { return }
        await session.dialect.leave()
        await session.dialect.connection.close(after: surroundings.patience.end)
    }

    private func session(atOnce: Bool = false) async throws -> ServerSession {
        let life = try state.withLock { state in
            guard !state.isStopped else { throw LanguageServerTable.notStarted(project) }
            if let life = state.life { return life }
            let now = ContinuousClock.now
            guard atOnce || now >= state.restsUntil else { throw Self.resting(state, now, project) }
            (state.began, state.number) = (now, state.number + 1)
            let (number, documents) = (state.number, state.documents)
            // Belongs to all who wait for it, so that none of them ends it by going away. It ends by the deadline of the
            // start, or because it is cancelled when the server is stopped.
            let life = Task { try await self.begin(number, documents) }
            state.life = life
            return life
        }
        return try await life.value
    }

    private func begin(_ number: Int, _ documents: [String]) async throws -> ServerSession {
        do {
            let variables = surroundings.environment.current
            let program = try await onBlockingThread { [project] in
                try ServerProgram.find(for: project, in: variables)
            }
            let connection = try await ServerConnection.open(
                program.specification(in: project.path, environment: variables),
                program.format,
                patience: surroundings.patience,
                processes: surroundings.processes,
                on: surroundings.loops.next()
            )
            do {
                let dialect = program.dialect(connection, project)
                let session = try await ServerSession.begin(dialect, program.name, project, documents: documents)
                connection.ended.whenComplete { [self] _ in noteEnd(of: number, session) }
                return session
            } catch {
                await connection.close(after: .zero)
                throw connection.lossBefore(error)
            }
        } catch {
            noteEnd(of: number, error, documents)
            throw error
        }
    }

    private func noteEnd(of number: Int, _ session: ServerSession) {
        let end = session.dialect.connection.end ?? ServerLost(reason: "it ended")
        noteEnd(of: number, end, session.documents)
    }

    private func noteEnd(of number: Int, _ error: any Error, _ documents: [String]) {
        let reason = (error as? ServerLost)?.reason ?? "\(error)"
        let failures = state.withLock { state -> Int? in
            guard state.number == number, state.life != nil, !state.isStopped else { return nil }
            state.life = nil
            state.documents = documents
            let now = ContinuousClock.now
            state.failures = now - state.began > LanguageServerLimit.soundLife ? 1 : state.failures + 1
            state.restsUntil = now + Self.pause(after: state.failures)
            state.lastEnd = reason
            return state.failures
        }
        // What the caller did wrong, like starting what is not installed, the caller is told.
        guard let failures, !(error is ToolboxError) else { return }
        surroundings.logger.warning(
            "language server ended",
            metadata: [
                "lsp.language": "\(project.language.rawValue)", "lsp.project": "\(project.path)",
                "lsp.failures": "\(failures)", "reason": "\(reason)",
            ]
        )
    }

    /// None after the first end, then 1 s, 2 s, 4 s, … up to `LanguageServerLimit.pause`.
    package static func pause(after failures: Int) -> Duration {
        failures < 2 ? .zero : min(LanguageServerLimit.pause, .seconds(1 << min(failures - 2, 10)))
    }

    private static func resting(_ state: State, _ now: ContinuousClock.Instant, _ project: ServerProject)
        -> ToolboxError
    {
        let seconds = max(1, (state.restsUntil - now).components.seconds + 1)
        return ToolboxError(
            .serviceUnavailable,
            "INTERNAL_SERVER_ERROR",
            "the \(project.language.rawValue) language server of \(project.path) ended \(state.failures) times in a row "
                + "and rests for \(seconds) s more; start it to try at once; the last time \(state.lastEnd)"
        )
    }
}

extension ServerConnection {
    /// Why a start failed: the end of the process tells more than that a request was lost by it.
    fileprivate func lossBefore(_ error: any Error) -> any Error {
        guard error is ServerLost, let end else { return error }
        return end
    }
}
