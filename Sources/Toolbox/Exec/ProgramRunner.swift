import NIOCore
import Synchronization

/// What came of a program that was run to its end.
package struct ProgramResult: Sendable {
    package var exitCode: Int
    package var output: SpooledOutput
    /// The deadline passed, and everything of the program was killed.
    package var timedOut = false
    /// Limits of the sandbox that were reached meanwhile, if the program failed.
    package var reasons: String?
}

/// Runs a program to its end: until its output is closed, its deadline passed or its client went away.
package struct ProgramRunner: Sendable {
    package let processes: ProcessTable
    /// Where large output goes until it is sent.
    package let spoolDirectory: String
    private let controlGroup: ControlGroupFiles

    package init(
        processes: ProcessTable,
        spoolDirectory: String,
        controlGroup: ControlGroupFiles = ControlGroupFiles()
    ) {
        self.processes = processes
        self.spoolDirectory = spoolDirectory
        self.controlGroup = controlGroup
    }

    /// A program that cannot be started has exit code -1 and the reason as its output.
    package func run(_ program: ProgramSpecification, deadline: Duration?, for call: ToolboxCall) async throws
        -> ProgramResult
    {
        let before = controlGroup.limitsReached()
        var result: ProgramResult
        do {
            result = try await runToEnd(program, deadline: deadline, for: call)
        } catch let failure as LaunchFailure {
            result = ProgramResult(exitCode: -1, output: SpooledOutput())
            result.output.memory.writeString(failure.reason)
        }
        // Output of what succeeded is left alone: a neighbour's trouble must not change what a program says.
        if result.exitCode != 0 || result.timedOut { result.reasons = controlGroup.reasons(since: before) }
        return result
    }

    private func runToEnd(_ program: ProgramSpecification, deadline: Duration?, for call: ToolboxCall) async throws
        -> ProgramResult
    {
        let tree = try await processes.launch(program, on: call.channel.eventLoop)
        let expired = Mutex(false)
        let alarm = deadline.map { limit in
            tree.output.channel.eventLoop.scheduleTask(in: TimeAmount(limit)) {
                expired.withLock { $0 = true }
                tree.kill()
            }
        }
        defer { alarm?.cancel() }
        var result = try await call.whileConnected(onDisconnect: { tree.kill() }) {
            try await withTaskCancellationHandler {
                try await collect(tree)
            } onCancel: {
                tree.kill()
            }
        }
        result.timedOut = expired.withLock { $0 }
        return result
    }

    private func collect(_ tree: ProcessTree) async throws -> ProgramResult {
        var spool = OutputSpool(directory: spoolDirectory)
        await tree.output.readToEnd { await spool.append($0) }
        let exit = try await tree.exit.get()
        _ = try await tree.started.get()
        return ProgramResult(exitCode: exit.code, output: spool.output)
    }
}
