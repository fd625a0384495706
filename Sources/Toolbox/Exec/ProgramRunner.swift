import NIOCore
import Synchronization

/// What came of a program that was run to its end.
package struct ProgramResult: Sendable {
    package var exitCode: Int
    package var output: SpooledOutput
    /// The deadline passed, and everything of the program was killed.
    package var timedOut = false
}

/// Runs a program to its end: until its output is closed, its deadline passed or its client went away.
package struct ProgramRunner: Sendable {
    package let processes: ProcessTable
    /// Where large output goes until it is sent.
    package let spoolDirectory: String

    package init(processes: ProcessTable, spoolDirectory: String) {
        self.processes = processes
        self.spoolDirectory = spoolDirectory
    }

    /// A program that cannot be started has exit code -1 and the reason as its output.
    package func run(_ program: ProgramSpecification, deadline: Duration?, for call: ToolboxCall) async throws
        -> ProgramResult
    {
        let tree: ProcessTree
        do {
            tree = try await processes.launch(program, on: call.channel.eventLoop)
        } catch let failure as LaunchFailure {
            return Self.failure(failure.reason)
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
