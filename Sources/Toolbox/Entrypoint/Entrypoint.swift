import Glibc
import Hummingbird
package import Logging
package import NIOCore
import Synchronization

/// The image's own program, run as a session beside the daemon. It may end; the sandbox goes on.
package final class Entrypoint: Sendable {
    private struct Command: Encodable {
        var id = "entrypoint_command"
        var command: String
        var exitCode: Int?
    }

    private struct Session: Encodable {
        var sessionId = "entrypoint"
        var commands: [Command]
    }

    private struct Logs: Encodable {
        var output: String
        var stdout: String
        var stderr = ""
    }

    private let arguments: [String]
    private let log = LogRing()
    private let exitCode = Mutex<Int?>(nil)

    /// - Parameter arguments: the image's entrypoint and command; empty if it has none.
    package init(arguments: [String]) {
        self.arguments = arguments
    }

    /// Runs the program to its end and keeps its newest output. Failing to start is in the log and has exit code 127.
    package func run(
        processes: ProcessTable,
        environment: EnvironmentStore,
        workingDirectory: WorkingDirectory,
        on loop: any EventLoop,
        logger: Logger
    ) async {
        guard let name = arguments.first else { return }
        do {
            let variables = environment.current
            let found = try await onBlockingThread {
                name.contains("/") ? name : ProgramSearch.find(name, in: variables)
            }
            guard let path = found else { return fail("\(name): not found in PATH", logger) }
            let tree = try await processes.launch(
                ProgramSpecification(
                    executable: path,
                    arguments: arguments,
                    environment: variables,
                    directory: workingDirectory.path
                ),
                on: loop
            )
            await follow(tree)
            let exit = try await tree.exit.get()
            _ = try await tree.started.get()
            exitCode.withLock { $0 = exit.code }
            logger.info("entrypoint ended", metadata: ["exit.code": "\(exit.code)"])
        } catch let error as IOError {
            fail("\(name): \(describeErrno(error.errnoCode))", logger)
        } catch {
            fail("\(name): \(error)", logger)
        }
    }

    /// `GET /process/session/entrypoint`.
    func session(_ call: ToolboxCall) async throws -> Response {
        try requireEntrypoint()
        let command = Command(command: arguments.joined(separator: " "), exitCode: exitCode.withLock { $0 })
        return try jsonResponse(Session(commands: [command]))
    }

    /// `GET /process/session/entrypoint/logs`, as far as kept. Both streams share a pipe, so all of it counts as stdout.
    func logs(_ call: ToolboxCall) async throws -> Response {
        try requireEntrypoint()
        guard try !call.query.flag("follow") else {
            throw ToolboxError(
                .notImplemented,
                "BAD_REQUEST",
                "following logs is not implemented yet; ask without follow=true"
            )
        }
        let text = String(decoding: log.contents.readableBytesView, as: UTF8.self)
        return try jsonResponse(Logs(output: text, stdout: text))
    }

    private func requireEntrypoint() throws {
        guard !arguments.isEmpty else {
            throw ToolboxError(.notFound, "PROCESS_NOT_FOUND", "this sandbox's image has no entrypoint")
        }
    }

    private func follow(_ tree: ProcessTree) async {
        do {
            try await tree.output.executeThenClose { inbound in
                for try await piece in inbound { log.append(piece) }
            }
        } catch {
            // Closed under us after a kill: the log keeps what was read.
        }
    }

    private func fail(_ reason: String, _ logger: Logger) {
        log.append(ByteBuffer(string: "cannot start the entrypoint: \(reason)\n"))
        exitCode.withLock { $0 = 127 }
        logger.warning("entrypoint did not start", metadata: ["reason": "\(reason)"])
    }
}
