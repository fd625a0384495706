import Glibc
import HTTPTypes
import NIOCore
import NIOPosix
import Synchronization

/// Limits of sessions.
package enum SessionLimit {
    /// Sessions at a time; each is two processes.
    package static let sessions = 512
    /// Bytes of a session's id.
    static let idBytes = 256
    /// Commands that are remembered; of more, the oldest that have ended are forgotten with their logs.
    static let commands = 1000
    /// Commands that wait for the one that runs.
    static let queue = 100
    /// Bytes of a command's text.
    static let textBytes = 8 << 20
    /// Bytes of a command's text that are shown after it was started.
    static let keptTextBytes = 4 << 10
    /// Input that a command has not read yet, in bytes.
    static let unreadInputBytes = 1 << 20
    /// Output of all its commands that a session keeps in files.
    static let logBytes = 256 << 20
    /// Output that could not be written to files and is kept in memory.
    static let logMemoryBytes = 1 << 20
    /// Time that a deleted session's programs get to end by themselves.
    static let termGrace = TimeAmount.seconds(3)
    /// Longest wait for the rest after they were killed.
    static let killWait = TimeAmount.seconds(5)
}

/// A shell that runs one command after the other, each with streams and a log of its own.
///
///     live: idle ◀──▶ running one command, others queued
///       │ the shell exits (`exit`, `exec`, a signal)
///       ▼
///     ended: logs can be read, nothing runs any more
final class Session: Sendable {
    fileprivate struct State {
        var shell: SessionShell?
        var commands: [SessionCommand] = []
        var queue: [SessionCommand] = []
        var current: SessionCommand?
        /// Of the last command.
        var status = 0
        var nextNumber = 1
        /// The shell's exit code.
        var end: Int?
        var isDeleted = false
    }

    let id: String
    private let loop: any EventLoop
    private let directory: LogDirectory
    private let spoolDirectory: String
    private let state = Mutex(State())

    /// What a session needs of the daemon.
    struct Surroundings: Sendable {
        var processes: ProcessTable
        var logs: LogDirectory
        /// Where texts of commands go if there is no memory file.
        var spoolDirectory: String
    }

    /// Starts a session's shell.
    /// - Throws: `LaunchFailure`, or 503 once the daemon is stopping.
    static func start(
        _ id: String,
        _ shell: Shell,
        environment: [String: String],
        directory: String,
        in surroundings: Surroundings,
        on loop: any EventLoop
    ) async throws -> Session {
        let session = Session(id, surroundings, on: loop)
        let started = try await SessionShell.start(
            shell,
            environment: environment,
            directory: directory,
            processes: surroundings.processes,
            on: loop,
            SessionShell.Listeners(
                onReport: { [weak session] in session?.hear($0) },
                onOutput: { [weak session] in session?.state.withLock { $0.current }?.log.append(.standardOutput, $0) }
            )
        )
        session.state.withLock { $0.shell = started }
        started.tree.exit.whenSuccess { session.shellEnded($0, started) }
        return session
    }

    private init(_ id: String, _ surroundings: Surroundings, on loop: any EventLoop) {
        self.id = id
        self.loop = loop
        directory = surroundings.logs
        spoolDirectory = surroundings.spoolDirectory
    }

    /// All commands that are remembered, the oldest first.
    var commands: [SessionCommand] { state.withLock { $0.commands } }

    var isDeleted: Bool { state.withLock { $0.isDeleted } }

    /// - Throws: 404.
    func command(_ id: String) throws -> SessionCommand {
        guard let command = state.withLock({ $0.commands.last { $0.id == id } }) else {
            throw ToolboxError(.notFound, "PROCESS_NOT_FOUND", "session '\(self.id)' has no command '\(id)'")
        }
        return command
    }

    /// Runs a command when all earlier ones have ended.
    /// - Throws: 410 if the shell has ended, 429 if too many wait.
    func enqueue(_ request: SessionCommand.Request, as id: String) throws -> SessionCommand {
        let log = OutputLog(in: directory, limit: LogLimit.commandBytes) { [weak self] in self?.trimLogs() }
        let (command, isNext, forgotten) = try state.withLock { state in
            try state.checkRoom(in: self.id)
            let command = SessionCommand(request, id: id, number: state.nextNumber, log: log, on: loop)
            state.nextNumber += 1
            state.commands.append(command)
            let isNext = state.current == nil
            if isNext { state.current = command } else { state.queue.append(command) }
            return (command, isNext, state.takeOldest())
        }
        if let forgotten { onBackground { forgotten.discard() } }
        if isNext { launch(command) }
        return command
    }

    /// Gives a command input.
    /// - Throws: 410 if it or the session has ended, and what `SessionCommand.send` throws.
    func send(_ data: String, to command: SessionCommand) async throws {
        if let code = state.withLock({ $0.end }) { throw Self.ended(id, code) }
        try await command.send(data)
    }

    /// Ends the shell and everything that was ever started in it, and forgets the logs.
    func delete() async {
        let shell = state.withLock { state in
            state.isDeleted = true
            return state.shell
        }
        guard let shell else { return }
        let tree = shell.tree
        tree.signal(SIGTERM)
        // Once the shell is gone, the signal reaches those too that have left its process group.
        tree.exit.whenSuccess { _ in tree.signal(SIGTERM) }
        if await !tree.gone.isFulfilled(within: SessionLimit.termGrace) {
            tree.kill()
            _ = await tree.gone.isFulfilled(within: SessionLimit.killWait)
        }
        shell.close()
        try? await onBlockingThread { [self] in
            for command in commands { command.discard() }
        }
    }

    static func ended(_ id: String, _ code: Int) -> ToolboxError {
        ToolboxError(
            .gone,
            "SESSION_ENDED",
            "the shell of session '\(id)' has ended with exit code \(code); delete the session and create another"
        )
    }

    // MARK: The course of a command

    private func launch(_ command: SessionCommand) {
        guard let text = command.script else { return }
        let (loop, directory) = (loop, spoolDirectory)
        NIOThreadPool.singleton.runIfActive(eventLoop: loop) {
            try CommandPipes(text: text, hasInput: command.isAsync, directory: directory)
        }.flatMap { pipes in
            CommandStreams.connect(pipes, to: command.log, on: loop).map { ($0, pipes.descriptors) }
        }.whenComplete { [self] result in
            switch result {
            case .success((let streams, let descriptors)): run(command, streams, descriptors)
            case .failure(let error): fail(command, "cannot start the command: \(describe(error))")
            }
        }
    }

    private func run(_ command: SessionCommand, _ streams: CommandStreams, _ descriptors: ShellDescriptors) {
        let (shell, status) = state.withLock { ($0.shell, $0.status) }
        guard command.attach(streams), let shell else { return }
        shell.say(shell.dialogue.run(command.number, after: status, descriptors))
    }

    private func fail(_ command: SessionCommand, _ reason: String) {
        note(reason, in: command)
        command.finish(-1)
        advance(after: command, status: 1)
    }

    private func note(_ words: String, in command: SessionCommand) {
        command.log.append(.standardError, ByteBuffer(string: "[martlet: \(words)]\n"))
    }

    private func hear(_ report: ShellReport) {
        guard let command = state.withLock({ $0.current }) else { return }
        switch report {
        case .began(command.number): command.begin()
        case .ended(command.number, let code): complete(command, code)
        case .began, .ended: break
        }
    }

    private func complete(_ command: SessionCommand, _ code: Int) {
        command.drain(on: loop).whenComplete { [self] _ in
            command.finish(code)
            advance(after: command, status: code)
        }
    }

    /// Starts the next command, unless the shell has ended meanwhile.
    private func advance(after command: SessionCommand, status: Int) {
        let next = state.withLock { state -> SessionCommand? in
            guard state.current === command else { return nil }
            state.status = status
            state.current = state.queue.isEmpty ? nil : state.queue.removeFirst()
            return state.current
        }
        if let next { launch(next) }
    }

    private func shellEnded(_ exit: ProgramExit, _ shell: SessionShell) {
        // The reports that it made before may still be in the pipe.
        shell.drain().whenComplete { [self] _ in
            let (last, waiting) = state.withLock { state in
                defer { (state.current, state.queue) = (nil, []) }
                state.end = exit.code
                return (state.current, state.queue)
            }
            shell.close()
            last?.drain(on: loop).whenComplete { _ in last?.finish(exit.code) }
            for command in waiting {
                note("not run: the session's shell ended before", in: command)
                command.finish(-1)
            }
        }
    }

    // MARK: Bounds

    /// Forgets the output of the oldest commands that have ended, until the session is within its limits. Blocks.
    private func trimLogs() {
        let all = commands
        let usages = all.map(\.log.usage)
        var total = usages.reduce(into: (files: 0, memory: 0)) { $0 = ($0.files + $1.files, $0.memory + $1.memory) }
        for (command, usage) in zip(all, usages) where command.exitCode != nil {
            let filesSurplus = total.files > SessionLimit.logBytes && usage.files > 0
            let memorySurplus = total.memory > SessionLimit.logMemoryBytes && usage.memory > 0
            guard filesSurplus || memorySurplus else { continue }
            command.log.discard(forGood: false)
            total = (total.files - usage.files, total.memory - usage.memory)
        }
    }

    private func onBackground(_ body: @escaping @Sendable () -> Void) {
        NIOThreadPool.singleton.submit { _ in body() }
    }
}

extension Session.State {
    func checkRoom(in session: String) throws {
        if let end { throw Session.ended(session, end) }
        guard queue.count < SessionLimit.queue else {
            throw ToolboxError(
                .tooManyRequests,
                "TOO_MANY_REQUESTS",
                "\(queue.count) commands of session '\(session)' wait for the one that runs, the limit; wait for some, or use another session"
            )
        }
    }

    /// The oldest command that has ended, if there are too many.
    mutating func takeOldest() -> SessionCommand? {
        guard commands.count > SessionLimit.commands,
            let index = commands.firstIndex(where: { $0.exitCode != nil })
        else { return nil }
        return commands.remove(at: index)
    }
}

extension EventLoopFuture where Value == Void {
    /// Whether it is fulfilled within some time.
    func isFulfilled(within limit: TimeAmount) async -> Bool {
        let promise = eventLoop.makePromise(of: Bool.self)
        let alarm = eventLoop.scheduleTask(in: limit) { promise.succeed(false) }
        whenComplete { _ in
            alarm.cancel()
            promise.succeed(true)
        }
        return (try? await promise.futureResult.get()) ?? false
    }
}

/// What went wrong, for a person.
private func describe(_ error: any Error) -> String {
    switch error {
    case let failure as LaunchFailure: failure.reason
    case let failure as IOError: describeErrno(failure.errnoCode)
    case let failure as ToolboxError: failure.message
    default: "\(error)"
    }
}
