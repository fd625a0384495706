import CLinux
import Glibc
package import NIOCore
import NIOPosix
import Synchronization

/// How a program's standard streams reach the daemon.
package enum ProgramStreams: Sendable, Equatable {
    /// Output and errors share one pipe, in the order they were written; nothing is on the standard input.
    case merged
    /// One pipe for each: the tree's `input`, `output` and `errors`.
    case apart
    /// All three are a pseudo-terminal that the program's session controls: the tree's `input` and `output`.
    case terminal(TerminalSize)
}

/// Size of a terminal, in characters.
package struct TerminalSize: Sendable, Equatable {
    package var columns: UInt16
    package var rows: UInt16

    package init(columns: UInt16, rows: UInt16) {
        self.columns = columns
        self.rows = rows
    }
}

/// A program to start.
package struct ProgramSpecification: Sendable {
    package var executable: String
    /// Including the zeroth.
    package var arguments: [String]
    package var environment: [String: String]
    package var directory: String
    package var streams = ProgramStreams.merged
    /// Standard input of a program with `merged` streams; empty if nil.
    package var input: OpenFile?
    /// Standard output of a program with `merged` streams; the tree's `output` if nil.
    package var standardOutput: OpenFile?
    /// Standard error of a program with `merged` streams; the tree's `output` if nil.
    package var standardError: OpenFile?
    /// The `input` is a terminal, and the program's session controls it.
    package var controlsInput = false
    /// Becomes descriptor 9: a script too long for an argument.
    package var source: OpenFile?
    /// Becomes descriptor 8: where our own wrappers write what is not output.
    package var artifacts: OpenFile?

    package init(executable: String, arguments: [String], environment: [String: String], directory: String) {
        self.executable = executable
        self.arguments = arguments
        self.environment = environment
        self.directory = directory
    }
}

/// Why a program could not be started: when it was launched, or when its keeper tried (``ProcessTree/started``).
package struct LaunchFailure: Error, Sendable {
    /// A sentence's beginning: what could not be done, with which file, and why.
    package var reason: String
}

/// Starts programs under keepers.
package struct ProgramLauncher: Sendable {
    package init() {}

    /// Starts a program and returns as soon as its keeper exists.
    /// - Parameter loop: where its pipes are read; the caller's own loop saves waking another thread for each piece.
    /// - Throws: `LaunchFailure` if the directory cannot be entered or the kernel refuses another process.
    package func launch(_ program: ProgramSpecification, on loop: any EventLoop) async throws -> ProcessTree {
        let ends = try await onBlockingThread { try spawn(program) }
        let reports = KeeperReports(keeper: ends.keeper, of: program.executable, on: loop)
        do {
            let streams = try await connect(ends, on: loop)
            let channel = try await NIOPipeBootstrap(group: loop)
                .channelInitializer { $0.pipeline.addHandler(reports) }
                .takingOwnershipOfDescriptors(input: ends.report.take(), output: ends.control.take()).get()
            return ProcessTree(channel: channel, streams: streams, reports: reports)
        } catch {
            // The control pipe closes with `ends`, so the keeper kills the tree.
            let failure = LaunchFailure(reason: "cannot watch \(program.executable): \(error)")
            reports.abandon(failure, on: loop)
            throw failure
        }
    }
}

/// Makes channels of the daemon's ends of a program's streams.
private func connect(_ ends: SpawnedEnds, on loop: any EventLoop) async throws -> ProgramChannels {
    @Sendable func wrap(_ channel: any Channel) -> EventLoopFuture<NIOAsyncChannel<ByteBuffer, Never>> {
        channel.eventLoop.makeCompletedFuture {
            try NIOAsyncChannel<ByteBuffer, Never>(wrappingChannelSynchronously: channel)
        }
    }
    let bootstrap = NIOPipeBootstrap(group: loop)
    guard !ends.outputIsTerminal else {
        let master = ends.output.take()
        let terminal = try await bootstrap.takingOwnershipOfDescriptor(inputOutput: master, channelInitializer: wrap)
        return ProgramChannels(output: terminal, input: ProgramInput(terminal.channel, terminal: master))
    }
    var streams = ProgramChannels(
        output: try await bootstrap.takingOwnershipOfDescriptor(input: ends.output.take(), channelInitializer: wrap)
    )
    if let errors = ends.errors {
        streams.errors = try await bootstrap.takingOwnershipOfDescriptor(input: errors.take(), channelInitializer: wrap)
    }
    if let input = ends.input {
        streams.input = ProgramInput(try await bootstrap.takingOwnershipOfDescriptor(output: input.take()).get())
    }
    return streams
}

/// The daemon's ends of the pipes.
private struct SpawnedEnds: Sendable {
    var keeper: pid_t
    var output: TakeableDescriptor
    var errors: TakeableDescriptor?
    var input: TakeableDescriptor?
    var outputIsTerminal = false
    var report: TakeableDescriptor
    var control: TakeableDescriptor
}

/// Both sides' ends of a program's streams.
private struct StreamEnds {
    /// What the program gets as its descriptors 0, 1 and 2.
    var program: (input: CInt, output: CInt, error: CInt)
    var terminal: CInt = -1
    var outputIsTerminal = false
    /// What must stay open until the program has started.
    var borrowed: [any Sendable]
    var output: TakeableDescriptor
    var errors: TakeableDescriptor?
    var input: TakeableDescriptor?
}

private func openStreams(of program: ProgramSpecification) throws -> StreamEnds {
    switch program.streams {
    case .merged:
        let (read, write) = try makePipe()
        let input = try program.input ?? emptyInput()
        return StreamEnds(
            program: (
                input.descriptor, program.standardOutput?.descriptor ?? write.descriptor,
                program.standardError?.descriptor ?? write.descriptor
            ),
            terminal: program.controlsInput ? input.descriptor : -1,
            borrowed: [input, write],
            output: read
        )
    case .apart:
        let (input, output, errors) = (try makePipe(), try makePipe(), try makePipe())
        return StreamEnds(
            program: (input.read.descriptor, output.write.descriptor, errors.write.descriptor),
            borrowed: [input.read, output.write, errors.write],
            output: output.read,
            errors: errors.read,
            input: input.write
        )
    case .terminal(let size):
        var (master, slave): (CInt, CInt) = (-1, -1)
        let result = martlet_terminal_open(size.columns, size.rows, &master, &slave)
        guard result == 0 else { throw LaunchFailure(reason: "cannot open a terminal: \(describeErrno(-result))") }
        return StreamEnds(
            program: (slave, slave, slave),
            terminal: slave,
            outputIsTerminal: true,
            borrowed: [TakeableDescriptor(slave)],
            output: TakeableDescriptor(master)
        )
    }
}

private func spawn(_ program: ProgramSpecification) throws -> SpawnedEnds {
    let directory = Glibc.open(program.directory, martlet_o_path | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else {
        throw LaunchFailure(reason: "cannot use directory \(program.directory): \(describeErrno(errno))")
    }
    defer { close(directory) }
    let streams = try openStreams(of: program)
    let (reportRead, reportWrite) = try makePipe()
    let (controlRead, controlWrite) = try makePipe()
    var request = martlet_spawn_request()
    request.directory = directory
    (request.input, request.output, request.error) = streams.program
    request.terminal = streams.terminal
    request.source = program.source?.descriptor ?? -1
    request.artifacts = program.artifacts?.descriptor ?? -1
    request.control = controlRead.descriptor
    request.report = reportWrite.descriptor
    let variables = program.environment.map { "\($0.key)=\($0.value)" }
    let keeper = withCStrings(program.arguments) { argv in
        withCStrings(variables) { envp in
            program.executable.withCString { path in
                request.path = path
                request.argv = argv
                request.envp = envp
                return martlet_spawn(&request)
            }
        }
    }
    guard keeper > 0 else { throw LaunchFailure(reason: "cannot start a process: \(describeErrno(-keeper))") }
    return withExtendedLifetime((streams.borrowed, reportWrite, controlRead)) {
        SpawnedEnds(
            keeper: keeper,
            output: streams.output,
            errors: streams.errors,
            input: streams.input,
            outputIsTerminal: streams.outputIsTerminal,
            report: reportRead,
            control: controlWrite
        )
    }
}

/// A descriptor that can be handed over once; closed if it never was.
final class TakeableDescriptor: Sendable {
    let descriptor: CInt
    private let taken = Mutex(false)

    init(_ descriptor: CInt) { self.descriptor = descriptor }

    deinit { if !taken.withLock({ $0 }) { close(descriptor) } }

    func take() -> CInt {
        taken.withLock { $0 = true }
        return descriptor
    }
}

/// A pipe whose ends no program inherits.
/// - Throws: `LaunchFailure`.
func makePipe() throws -> (read: TakeableDescriptor, write: TakeableDescriptor) {
    var (read, write): (CInt, CInt) = (-1, -1)
    let result = martlet_pipe(&read, &write)
    guard result == 0 else { throw LaunchFailure(reason: "cannot make a pipe: \(describeErrno(-result))") }
    return (TakeableDescriptor(read), TakeableDescriptor(write))
}

/// /dev/null, or where an image has none the end of a pipe that nobody writes to.
private func emptyInput() throws -> OpenFile {
    let null = Glibc.open("/dev/null", O_RDONLY | O_CLOEXEC)
    if null >= 0 { return OpenFile(owning: null) }
    return OpenFile(owning: try makePipe().read.take())
}

private func withCStrings<Result>(_ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result)
    -> Result
{
    let copies = strings.map { strdup($0) } + [nil]
    defer { for copy in copies { free(copy) } }
    return copies.withUnsafeBufferPointer { body($0.baseAddress!) }  // holds at least the nil
}
