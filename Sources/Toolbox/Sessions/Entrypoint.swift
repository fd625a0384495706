import Glibc
import HTTPTypes
import Hummingbird
package import Logging
package import NIOCore
import Synchronization
import WebSockets

/// The image's own program, run as a session beside the daemon. It may end; the sandbox goes on.
///
/// A daemon that was killed took it along, so the daemon that follows runs it again, and says so in its log: a server that the
/// image brings is back. What had ended before stays ended.
package final class Entrypoint: Sendable {
    static let sessionID = "entrypoint"
    private static let commandID = "entrypoint_command"
    /// After its end, output that is held open by what it left running is waited for so long.
    private static let drainLimit = TimeAmount.seconds(1)

    private let arguments: [String]
    private let log: OutputLog
    private let exitCode = Mutex<Int?>(nil)

    /// - Parameters:
    ///   - arguments: the image's entrypoint and command; empty if it has none.
    ///   - directory: where its output is kept.
    package init(arguments: [String], logs directory: LogDirectory) {
        self.arguments = arguments
        log = OutputLog(in: directory, limit: LogLimit.entrypointBytes)
    }

    /// Runs the program until nobody writes to its outputs, and keeps the newest of what it wrote. Failing to start is in the
    /// log and has exit code 127.
    package func run(
        processes: ProcessTable,
        environment: EnvironmentStore,
        workingDirectory: WorkingDirectory,
        on loop: any EventLoop,
        logger: Logger
    ) async {
        guard let name = arguments.first else { return }
        if let code = Legacy.findNumber(.entrypointEnd) {
            note("its output was lost when the sandbox's daemon was restarted")
            return end(code)
        }
        if Legacy.restarts > 0 { note("it runs again: the sandbox's daemon was restarted, which ended it") }
        do {
            let variables = environment.current
            let found = try await onBlockingThread {
                name.contains("/") ? name : ProgramSearch.find(name, in: variables)
            }
            guard let path = found else { return fail("\(name): not found in PATH", logger) }
            var program = ProgramSpecification(
                executable: path,
                arguments: arguments,
                environment: variables,
                directory: workingDirectory.path
            )
            program.streams = .apart
            let tree = try await processes.launch(program, on: loop)
            tree.input?.close()
            await follow(tree, in: processes, logger)
            _ = try await tree.started.get()
        } catch let failure as LaunchFailure {
            fail(failure.reason, logger)
        } catch {
            fail("\(name): \(error)", logger)
        }
    }

    /// `GET /process/session/entrypoint`.
    func session(_ call: ToolboxCall) async throws -> Response {
        try requireEntrypoint()
        let command = CommandDescription(
            id: Self.commandID,
            command: arguments.joined(separator: " "),
            exitCode: exitCode.withLock { $0 }
        )
        return try jsonResponse(SessionDescription(sessionId: Self.sessionID, commands: [command]))
    }

    /// `GET /process/session/entrypoint/logs`, as far as kept.
    func logs(_ call: ToolboxCall) async throws -> Response {
        try requireEntrypoint()
        _ = try call.query.flag("follow")  // a plain request cannot follow, and gets what there is
        return await LogText(log).response()
    }

    /// The same as a WebSocket.
    func follow(_ call: ToolboxCall) throws -> WebSocketAnswer {
        try requireEntrypoint()
        return try LogFollower.accept(log)
    }

    private func requireEntrypoint() throws {
        guard !arguments.isEmpty else {
            throw ToolboxError(.notFound, "PROCESS_NOT_FOUND", "this sandbox's image has no entrypoint")
        }
    }

    /// Records both outputs to their ends. The program counts as ended when it has exited and they are at their ends, or soon
    /// after if something that it started holds them.
    private func follow(_ tree: ProcessTree, in processes: ProcessTable, _ logger: Logger) async {
        let drained = tree.exit.eventLoop.makePromise(of: Void.self)
        async let end: Void = awaitEnd(of: tree, in: processes, drained.futureResult, logger)
        async let errors: Void = record(tree.errors, as: .standardError)
        await record(tree.output, as: .standardOutput)
        await errors
        drained.succeed()
        await end
    }

    private func awaitEnd(
        of tree: ProcessTree,
        in processes: ProcessTable,
        _ drained: EventLoopFuture<Void>,
        _ logger: Logger
    ) async {
        guard let exit = try? await tree.exit.get(), (try? await tree.started.get()) != nil else { return }
        // An end that the daemon's own end is the cause of is no end of the program's.
        if exit != .unknown, !processes.isStopping { Legacy.keep(exit.code, as: .entrypointEnd) }
        _ = await drained.isFulfilled(within: Self.drainLimit)
        end(exit.code)
        logger.info("entrypoint ended", metadata: ["exit.code": "\(exit.code)"])
    }

    private func record(_ output: NIOAsyncChannel<ByteBuffer, Never>?, as stream: LogStream) async {
        await output?.readToEnd { await log.store($0, of: stream) }
    }

    private func end(_ code: Int) {
        exitCode.withLock { $0 = code }
        log.finish()
    }

    private func note(_ text: String) {
        log.append(.standardError, ByteBuffer(string: "martlet: \(text)\n"))
    }

    private func fail(_ reason: String, _ logger: Logger) {
        log.append(.standardError, ByteBuffer(string: "cannot start the entrypoint: \(reason)\n"))
        end(127)
        logger.warning("entrypoint did not start", metadata: ["reason": "\(reason)"])
    }
}
