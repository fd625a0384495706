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
        let tree: ProcessTree
        do {
            tree = try await processes.launch(program, on: call.channel.eventLoop)
        } catch let failure as LaunchFailure {
            var result = Self.failure(failure.reason)
            result.reasons = controlGroup.reasons(since: before)
            return result
        }
        let expired = Mutex(false)
        let alarm = deadline.map { limit in
            tree.output.channel.eventLoop.scheduleTask(in: TimeAmount(limit)) {
                expired.withLock { $0 = true }
                tree.kill()
            }
        }
        defer { alarm?.cancel() }
        let result = try await call.whileConnected(onDisconnect: { tree.kill() }) {
            try await withTaskCancellationHandler {
                try await collect(tree)
            } onCancel: {
                tree.kill()
            }
        }
        var final = result
        final.timedOut = expired.withLock { $0 }
        // Output of what succeeded is left alone: a neighbour's trouble must not change what a program says.
        if final.exitCode != 0 || final.timedOut { final.reasons = controlGroup.reasons(since: before) }
        return final
    }

    private func collect(_ tree: ProcessTree) async throws -> ProgramResult {
        let spool = await drainOutput(of: tree)
        let exit = try await tree.exit.get()
        do {
            _ = try await tree.started.get()
        } catch let error as IOError {
            return Self.failure("cannot start the program: \(describeErrno(error.errnoCode))")
        }
        return ProgramResult(exitCode: exit.code, output: spool.output)
    }

    private func drainOutput(of tree: ProcessTree) async -> OutputSpool {
        var spool = OutputSpool(directory: spoolDirectory)
        do {
            try await tree.output.executeThenClose { inbound in
                for try await piece in inbound { await spool.append(piece) }
            }
        } catch {
            // The pipe was closed under us after a kill: what was read so far is the output.
        }
        return spool
    }

    private static func failure(_ reason: String) -> ProgramResult {
        var output = SpooledOutput()
        output.memory.writeString(reason)
        return ProgramResult(exitCode: -1, output: output)
    }
}
