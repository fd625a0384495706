import CLinux
import Glibc
package import NIOCore
import NIOPosix
import Synchronization

/// A program to start.
package struct ProgramSpecification: Sendable {
    package var executable: String
    /// Including the zeroth.
    package var arguments: [String]
    package var environment: [String: String]
    package var directory: String
    /// Standard input; empty if nil.
    package var input: OpenFile?
    /// Standard output; the tree's `output` if nil.
    package var standardOutput: OpenFile?
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

/// Why a program could not be started at all.
package struct LaunchFailure: Error, Sendable {
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
        let reports = KeeperReports(keeper: ends.keeper, on: loop)
        do {
            let output = try await NIOPipeBootstrap(group: loop).takingOwnershipOfDescriptor(input: ends.output.take())
            { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, Never>(wrappingChannelSynchronously: channel)
                }
            }
            let channel = try await NIOPipeBootstrap(group: loop)
                .channelInitializer { $0.pipeline.addHandler(reports) }
                .takingOwnershipOfDescriptors(input: ends.report.take(), output: ends.control.take()).get()
            return ProcessTree(channel: channel, output: output, reports: reports)
        } catch {
            // The control pipe closes with `ends`, so the keeper kills the tree; it becomes a zombie until the daemon ends.
            reports.started.fail(error)
            reports.exit.fail(error)
            reports.gone.fail(error)
            throw LaunchFailure(reason: "cannot watch the program: \(error)")
        }
    }
}

/// The daemon's ends of the pipes.
private struct SpawnedEnds: Sendable {
    var keeper: pid_t
    var output: TakeableDescriptor
    var report: TakeableDescriptor
    var control: TakeableDescriptor
}

private func spawn(_ program: ProgramSpecification) throws -> SpawnedEnds {
    let directory = Glibc.open(program.directory, martlet_o_path | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else {
        throw LaunchFailure(reason: "cannot use directory \(program.directory): \(describeErrno(errno))")
    }
    defer { close(directory) }
    let (outputRead, outputWrite) = try makePipe()
    let (reportRead, reportWrite) = try makePipe()
    let (controlRead, controlWrite) = try makePipe()
    let input = try program.input ?? emptyInput()
    var request = martlet_spawn_request()
    request.directory = directory
    request.input = input.descriptor
    request.output = program.standardOutput?.descriptor ?? outputWrite.descriptor
    request.error = outputWrite.descriptor
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
    return withExtendedLifetime((input, outputWrite, reportWrite, controlRead)) {
        SpawnedEnds(keeper: keeper, output: outputRead, report: reportRead, control: controlWrite)
    }
}

/// A descriptor that can be handed over once; closed if it never was.
private final class TakeableDescriptor: Sendable {
    let descriptor: CInt
    private let taken = Mutex(false)

    init(_ descriptor: CInt) { self.descriptor = descriptor }

    deinit { if !taken.withLock({ $0 }) { close(descriptor) } }

    func take() -> CInt {
        taken.withLock { $0 = true }
        return descriptor
    }
}

private func makePipe() throws -> (read: TakeableDescriptor, write: TakeableDescriptor) {
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
