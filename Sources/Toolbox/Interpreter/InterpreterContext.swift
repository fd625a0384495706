import FoundationEssentials
import HTTPTypes
import NIOCore
import Synchronization

/// That what the executions of a context made is gone.
struct InterpreterLoss: Sendable {
    /// Continues "its Python process".
    var reason: String
    /// The last words of the process that nobody has heard.
    var leftovers: [OutputStream: Leftover]
}

/// A namespace that executions share: a queue, and a Python process from the first execution on.
final class InterpreterContext: Sendable {
    /// Of the context that executions use when they name none.
    static let defaultID = "default"

    let id: String
    let directory: String
    let createdAt: Date
    let turns = TurnLine()
    private let processes: ProcessTable
    private let environment: EnvironmentStore

    private struct State {
        var worker: InterpreterWorker?
        /// Until the next execution was told.
        var loss: InterpreterLoss?
    }
    private let state = Mutex(State())

    init(id: String, directory: String, processes: ProcessTable, environment: EnvironmentStore) {
        self.id = id
        self.directory = directory
        self.processes = processes
        self.environment = environment
        createdAt = .now
    }

    var isDeleted: Bool { turns.isClosed }

    /// The process, started if there is none that lives; and what its executions must be told: that their state is lost.
    /// Only for the one whose turn it is.
    /// - Throws: `InterpreterFailure`, or 503 once the daemon is stopping.
    func worker(on loop: any EventLoop) async throws -> (worker: InterpreterWorker, loss: InterpreterLoss?) {
        if let worker = state.withLock({ $0.worker }) {
            guard let exit = worker.exit else { return (worker, state.withLock { $0.loss }) }
            lose(worker, because: worker.isBroken ? "broke the interpreter's protocol" : describe(exit))
        }
        let worker = try await InterpreterWorker.start(
            in: directory,
            variables: environment.current,
            processes: processes,
            on: loop
        )
        let loss = state.withLock { state in
            state.worker = worker
            return state.loss
        }
        // Whoever deletes closes the queue first, and then kills what is here.
        if isDeleted { worker.kill() }
        return (worker, loss)
    }

    /// A client has heard of the loss.
    func lossWasTold() {
        state.withLock { $0.loss = nil }
    }

    /// Notes that a process ended; `reason` continues "its Python process".
    func lose(_ worker: InterpreterWorker, because reason: String) {
        state.withLock { state in
            guard state.worker === worker else { return }
            state.worker = nil
            state.loss = InterpreterLoss(reason: reason, leftovers: worker.feed.takeLeftovers())
        }
    }

    /// What an execution is to be sent to a worker as.
    func command(_ request: ExecutionRequest, for worker: InterpreterWorker) -> WorkerCommand {
        WorkerCommand(
            number: worker.nextNumber(),
            code: request.code,
            envs: request.variables,
            variables: worker.changes(to: environment.current),
            end: "martlet:\(UUID().uuidString)"
        )
    }

    /// Refuses all executions and ends the process with all that it started.
    func delete() {
        turns.close()
        state.withLock { $0.worker }?.kill()
    }
}

/// All contexts of the sandbox.
package final class InterpreterContexts: Sendable {
    private struct State {
        var contexts: [InterpreterContext] = []
    }

    private let state = Mutex(State())
    private let standard: InterpreterContext
    private let processes: ProcessTable
    private let environment: EnvironmentStore
    private let workingDirectory: WorkingDirectory

    package init(processes: ProcessTable, environment: EnvironmentStore, workingDirectory: WorkingDirectory) {
        self.processes = processes
        self.environment = environment
        self.workingDirectory = workingDirectory
        standard = InterpreterContext(
            id: InterpreterContext.defaultID,
            directory: workingDirectory.path,
            processes: processes,
            environment: environment
        )
    }

    /// Those that were created, oldest first.
    var created: [InterpreterContext] { state.withLock { $0.contexts } }

    /// The context of an execution; the default one for nil.
    func find(_ id: String?) -> InterpreterContext? {
        guard let id else { return standard }
        return state.withLock { $0.contexts.first { $0.id == id } }
    }

    /// Starts nothing yet.
    /// - Throws: 400 for a directory that is none, 422 if the image has no Python, 429 at the limit.
    func create(directory given: String?) async throws -> InterpreterContext {
        let directory = given.flatMap { $0.isEmpty ? nil : $0 } ?? workingDirectory.path
        let path = try workingDirectory.resolve(directory)
        guard try await onBlockingThread({ (try? FileStatus.of(path))?.kind == .directory }) else {
            throw ToolboxError.badRequest("field 'cwd' is '\(directory)', which is not a directory")
        }
        guard try await InterpreterWorker.findPython(in: environment.current) != nil else {
            throw ToolboxError(
                .unprocessableContent,
                "UNPROCESSABLE_ENTITY",
                InterpreterWorker.noPython.message
            )
        }
        let context = InterpreterContext(
            id: UUID().uuidString.lowercased(),
            directory: path,
            processes: processes,
            environment: environment
        )
        try state.withLock { state in
            guard state.contexts.count < InterpreterLimit.contexts else { throw Self.tooMany }
            state.contexts.append(context)
        }
        return context
    }

    /// - Throws: 400 for the default one, 404 for one that is not there.
    func delete(_ id: String) throws {
        guard id != InterpreterContext.defaultID else {
            throw ToolboxError.badRequest("the default context cannot be deleted")
        }
        let context = state.withLock { state in
            state.contexts.firstIndex { $0.id == id }.map { state.contexts.remove(at: $0) }
        }
        guard let context else {
            throw Self.unknown(id)
        }
        context.delete()
    }

    static func unknown(_ id: String) -> ToolboxError {
        .unknown("there is no interpreter context '\(id)'", code: "NOT_FOUND")
    }

    private static let tooMany = ToolboxError(
        .tooManyRequests,
        "BAD_REQUEST",
        "there are \(InterpreterLimit.contexts) interpreter contexts, the limit; delete one that is not needed any more"
    )
}
