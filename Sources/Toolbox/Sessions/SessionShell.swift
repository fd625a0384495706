import Glibc
import NIOCore
import NIOPosix

/// The shell of a session with the pipes by which it is told what to do, and tells what it did.
final class SessionShell: Sendable {
    /// Who hears of the shell, on its event loop.
    struct Listeners: Sendable {
        var onReport: @Sendable (ShellReport) -> Void
        /// What it wrote outside of commands.
        var onOutput: @Sendable (ByteBuffer) -> Void
    }

    let tree: ProcessTree
    let dialogue: ShellDialogue
    private let control: any Channel
    private let reports: PipeReader
    private let output: PipeReader

    /// Starts a shell, and waits until it runs.
    /// - Throws: `LaunchFailure`, or 503 once the daemon is stopping.
    static func start(
        _ shell: Shell,
        environment: [String: String],
        directory: String,
        processes: ProcessTable,
        on loop: any EventLoop,
        _ listeners: Listeners
    ) async throws -> SessionShell {
        let (control, reports, output) = try await onBlockingThread { (try makePipe(), try makePipe(), try makePipe()) }
        let name = shell.path.split(separator: "/").last.map(String.init) ?? shell.path
        var program = ProgramSpecification(
            executable: shell.path,
            arguments: [name, "-s"],
            environment: environment,
            directory: directory
        )
        program.input = OpenFile(owning: control.read.take())
        program.standardOutput = OpenFile(owning: output.write.take())
        program.artifacts = OpenFile(owning: reports.write.take())
        let tree = try await processes.launch(program, on: loop)
        dropStartupErrors(of: tree)
        do {
            let started = try await SessionShell(
                tree: tree,
                dialogue: ShellDialogue(shell: shell.path, daemon: getpid()),
                control: NIOPipeBootstrap(group: loop).takingOwnershipOfDescriptor(output: control.write.take()).get(),
                reports: readReports(reports.read, on: loop, listeners.onReport),
                output: readOutput(output.read, on: loop, listeners.onOutput)
            )
            _ = try await tree.started.get()
            started.say(started.dialogue.opening)
            return started
        } catch {
            tree.kill()
            throw error as? LaunchFailure ?? LaunchFailure(reason: "cannot talk with \(shell.path): \(error)")
        }
    }

    private init(
        tree: ProcessTree,
        dialogue: ShellDialogue,
        control: any Channel,
        reports: PipeReader,
        output: PipeReader
    ) {
        self.tree = tree
        self.dialogue = dialogue
        self.control = control
        self.reports = reports
        self.output = output
    }

    /// Writes a line to the shell.
    func say(_ line: String) {
        control.writeAndFlush(ByteBuffer(string: line), promise: nil)
    }

    /// Fulfilled when the listeners have heard all that the shell has said until now.
    func drain() -> EventLoopFuture<Void> {
        reports.drain().and(output.drain()).map { _ in }
    }

    /// Lets go of the pipes.
    func close() {
        control.close(promise: nil)
        reports.close()
        output.close()
    }

    private static func readReports(
        _ end: TakeableDescriptor,
        on loop: any EventLoop,
        _ listener: @escaping @Sendable (ShellReport) -> Void
    ) async throws -> PipeReader {
        let parser = NIOLoopBoundBox.makeBoxSendingValue(ShellReportParser(), eventLoop: loop)
        return try await PipeReader.start(end, on: loop) { piece, _ in
            for report in parser.value.parse(piece.readableBytesView) { listener(report) }
            return true
        }.get()
    }

    private static func readOutput(
        _ end: TakeableDescriptor,
        on loop: any EventLoop,
        _ listener: @escaping @Sendable (ByteBuffer) -> Void
    ) async throws -> PipeReader {
        try await PipeReader.start(end, on: loop) { piece, _ in
            listener(piece)
            return true
        }.get()
    }

    /// The tree's own output is the shell's standard error until it has read its first line.
    private static func dropStartupErrors(of tree: ProcessTree) {
        // Unstructured: it lasts as long as the pipe, which `kill` closes at the latest.
        Task { await tree.output.readToEnd { _ in } }
    }
}
