import CLinux
import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// An execution could not be run, and not because of its code.
struct InterpreterFailure: Error, Sendable {
    var message: String
}

/// The Python process of a context (see README.md). One execution at a time.
final class InterpreterWorker: Sendable {
    private let tree: ProcessTree
    private let input: ProgramInput
    private let reports: NIOAsyncChannel<ByteBuffer, Never>
    let feed = WorkerFeed()
    private struct State {
        var executions = 0
        /// The variables that the process has from the daemon.
        var variables: [String: String]
        var exit: ProgramExit?
        /// It said what its script does not say.
        var isBroken = false
    }
    private let state: Mutex<State>

    /// Starts Python in a directory and waits until it takes commands.
    /// - Throws: `InterpreterFailure` with the reason; 503 once the daemon is stopping.
    static func start(
        in directory: String,
        variables: [String: String],
        processes: ProcessTable,
        on loop: any EventLoop
    ) async throws -> InterpreterWorker {
        guard let python = try await findPython(in: variables) else { throw noPython }
        var program = ProgramSpecification(
            executable: python,
            arguments: [python, "-c", workerStub, workerScript],
            environment: variables,
            directory: directory
        )
        program.streams = .apart
        let (channel, writer) = try await openReportPipe(on: loop)
        program.artifacts = writer
        let worker: InterpreterWorker
        do {
            let tree = try await processes.launch(program, on: loop)
            worker = InterpreterWorker(tree: tree, reports: channel, variables: variables)
        } catch {
            try? await channel.channel.close()
            guard let failure = error as? LaunchFailure else { throw error }
            throw InterpreterFailure(message: failure.reason)
        }
        // Ends with the process, all of whose descriptors it reads to their end.
        Task { await worker.live() }
        try await worker.awaitReadiness(on: loop)
        return worker
    }

    private init(tree: ProcessTree, reports: NIOAsyncChannel<ByteBuffer, Never>, variables: [String: String]) {
        self.tree = tree
        self.reports = reports
        input = tree.input!  // there is one, since the streams are apart
        state = Mutex(State(variables: variables))
    }

    /// How it ended, if it did.
    var exit: ProgramExit? { state.withLock { $0.exit } }

    /// Whether it was killed for breaking the protocol.
    var isBroken: Bool { state.withLock { $0.isBroken } }

    /// The number of the next execution.
    func nextNumber() -> Int {
        state.withLock { state in
            state.executions += 1
            return state.executions
        }
    }

    /// What changed in the daemon's variables since this was last asked; nil removes.
    func changes(to current: [String: String]) -> [String: String?] {
        state.withLock { state in
            var changes: [String: String?] = current.filter { state.variables[$0.key] != $0.value }
            for name in state.variables.keys where current[name] == nil { changes[name] = .some(nil) }
            state.variables = current
            return changes
        }
    }

    /// Hands a command over; waits while the worker does not read.
    /// - Throws: if it never will.
    func send(_ command: ByteBuffer) async throws { try await input.write(command) }

    /// SIGINT to the process and what it started in its group. Fulfilled when they have it.
    func interrupt() -> EventLoopFuture<Void> { tree.deliver(SIGINT) }

    /// Kills it and all that it started.
    func kill() { tree.kill() }

    /// Kills it because nothing that it says can be believed.
    func breakOff() {
        state.withLock { $0.isBroken = true }
        kill()
    }

    private func awaitReadiness(on loop: any EventLoop) async throws {
        let alarm = loop.scheduleTask(in: TimeAmount(InterpreterLimit.start)) { [tree] in tree.kill() }
        defer { alarm.cancel() }
        while let event = await feed.take() {
            guard case .report(.ready) = event else {
                breakOff()
                continue
            }
            _ = feed.end()
            return
        }
        do {
            _ = try await tree.started.get()
        } catch let failure as LaunchFailure {
            throw InterpreterFailure(message: failure.reason)
        }
        let complaint = feed.takeLeftovers()[.stderr].map { String(buffer: $0.bytes) } ?? ""
        throw InterpreterFailure(
            message:
                "Python did not start within \(InterpreterLimit.start): it \(describe(exit)). \(complaint.suffix(2000))"
        )
    }

    private func live() async {
        async let output: Void = pump(tree.output, .stdout)
        async let errors: Void = pump(tree.errors!, .stderr)  // there are, since the streams are apart
        async let reported: Void = pumpReports()
        let exit = try? await tree.exit.get()
        // What the process left behind would keep the streams open, and has lost who knew it.
        tree.kill()
        await output
        await errors
        reports.channel.close(promise: nil)
        await reported
        input.close()
        state.withLock { $0.exit = exit ?? .unknown }
        feed.finish()
    }

    private func pump(_ channel: NIOAsyncChannel<ByteBuffer, Never>, _ stream: OutputStream) async {
        await channel.readToEnd { await feed.accept($0, of: stream) }
        await feed.close(stream)
    }

    private func pumpReports() async {
        var reader = ReportReader()
        await reports.readToEnd { piece in
            for report in reader.read(piece) where await !feed.accept(report) { breakOff() }
        }
    }
}

/// As the end of a sentence about the process.
func describe(_ exit: ProgramExit?) -> String {
    switch exit {
    case .exited(let code): "ended with exit code \(code)"
    case .signalled(SIGKILL): "was killed by signal 9 (SIGKILL), as happens when memory runs out"
    case .signalled(SIGSEGV): "crashed with signal 11 (SIGSEGV, segmentation fault)"
    case .signalled(SIGABRT): "crashed with signal 6 (SIGABRT)"
    case .signalled(SIGBUS): "crashed with signal 7 (SIGBUS)"
    case .signalled(let number): "was ended by signal \(number)"
    case .unknown, nil: "was killed from outside"
    }
}

extension InterpreterWorker {
    /// Where Python is, nil if the image has none.
    static func findPython(in variables: [String: String]) async throws -> String? {
        try await onBlockingThread {
            ["python3", "python"].lazy.compactMap { ProgramSearch.find($0, in: variables) }.first
        }
    }

    /// Short enough for a close frame.
    static let noPython = InterpreterFailure(
        message: "Python is not in this sandbox: no python3 in PATH; install it or use an image that has it"
    )
}

/// A pipe that a program reports on, and the daemon's end of it.
private func openReportPipe(on loop: any EventLoop) async throws -> (NIOAsyncChannel<ByteBuffer, Never>, OpenFile) {
    var (reader, writer): (CInt, CInt) = (-1, -1)
    let result = martlet_pipe(&reader, &writer)
    guard result == 0 else { throw InterpreterFailure(message: "cannot make a pipe: \(describeErrno(-result))") }
    let written = OpenFile(owning: writer)
    do {
        let channel = try await NIOPipeBootstrap(group: loop).takingOwnershipOfDescriptor(input: reader) { channel in
            channel.eventLoop.makeCompletedFuture {
                try NIOAsyncChannel<ByteBuffer, Never>(wrappingChannelSynchronously: channel)
            }
        }
        return (channel, written)
    } catch {
        close(reader)
        throw InterpreterFailure(message: "cannot watch a pipe: \(error)")
    }
}
