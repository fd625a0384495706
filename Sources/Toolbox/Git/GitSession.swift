import Glibc
import HTTPTypes
package import NIOCore

/// All that git does for one call: in one directory, until one deadline, as long as the client is there.
package struct GitSession: Sendable {
    let call: ToolboxCall
    let processes: ProcessTable
    let executable: String
    /// The sandbox's variables, as the user set them.
    let environment: [String: String]
    var directory: String
    /// Above this, no repository is looked for.
    var ceiling: String?
    let limit: Duration
    let expiry: ContinuousClock.Instant

    /// The same call's work in another directory.
    func moved(to directory: String) -> GitSession {
        var session = self
        (session.directory, session.ceiling) = (directory, parentPath(directory))
        return session
    }

    /// Runs git, and succeeds if it does.
    /// - Throws: what its failure means to the caller.
    @discardableResult
    package func check(_ command: GitCommand) async throws -> GitResult {
        let result = try await run(command)
        guard result.exitCode == 0 else { throw gitFailure(command.title, result) }
        return result
    }

    /// Runs git to its end, whatever its exit code.
    /// - Throws: 408 when the deadline passed, 422 for too much output unless that is `cut`, `CancellationError` when the client
    ///   went away. Then all that git started has been ended.
    package func run(_ command: GitCommand, cut: Bool = false) async throws -> GitResult {
        do {
            return try await runToEnd(command, cut: cut)
        } catch let failure as LaunchFailure {
            throw ToolboxError(.internalServerError, "INTERNAL_SERVER_ERROR", failure.reason)
        }
    }

    private func runToEnd(_ command: GitCommand, cut: Bool) async throws -> GitResult {
        let running = RunningGit(try await launch(command))
        let alarm = running.loop.scheduleTask(in: TimeAmount(max(.zero, expiry - .now))) { running.end(.expired) }
        defer { alarm.cancel() }
        let result = try await call.whileConnected(onDisconnect: { running.end(.abandoned) }) {
            try await withTaskCancellationHandler {
                try await running.collect(command.input)
            } onCancel: {
                running.end(.abandoned)
            }
        }
        switch running.reason {
        case nil: return result
        case .abandoned: throw CancellationError()
        case .expired:
            throw ToolboxError(
                .requestTimeout,
                "REQUEST_TIMEOUT",
                "\(command.title) was not finished after \(limit.components.seconds) s, the limit of this call, and was ended; run it as a command"
            )
        case .overflowed:
            guard !cut else { return result }
            throw ToolboxError(
                .unprocessableContent,
                "UNPROCESSABLE_ENTITY",
                "\(command.title) answers more than \(GitLimit.outputBytes) bytes, the limit; run it as a command"
            )
        }
    }

    private func launch(_ command: GitCommand) async throws -> ProcessTree {
        var program = ProgramSpecification(
            executable: executable,
            arguments: ["git"] + command.arguments,
            environment: gitEnvironment(environment, ceiling: ceiling).merging(command.variables) { $1 },
            directory: directory
        )
        program.streams = .apart
        return try await processes.launch(program, on: call.channel.eventLoop)
    }
}

/// What git wrote, and how it ended.
package struct GitResult: Sendable {
    package var exitCode: Int
    package var output: ByteBuffer
    package var errors: String

    package init(exitCode: Int, output: ByteBuffer = ByteBuffer(), errors: String = "") {
        self.exitCode = exitCode
        self.output = output
        self.errors = errors
    }

    /// The output as text, without the line break at its end.
    package var text: String {
        let bytes = output.readableBytesView
        return String(decoding: bytes.last == 10 ? bytes.dropLast() : bytes, as: UTF8.self)
    }
}
