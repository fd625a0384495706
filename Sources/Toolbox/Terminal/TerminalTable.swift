import FoundationEssentials
import HTTPTypes
package import NIOCore
import Synchronization

/// What a terminal is asked for with.
package struct TerminalRequest: Sendable {
    package var id: String
    /// Absolute, or relative to the daemon's working directory.
    package var directory: String?
    package var variables: [String: String]
    package var size: TerminalSize
    package var lazyStart: Bool

    package init(
        id: String,
        directory: String? = nil,
        variables: [String: String] = [:],
        size: TerminalSize = TerminalSize(columns: 80, rows: 24),
        lazyStart: Bool = false
    ) {
        self.id = id
        self.directory = directory
        self.variables = variables
        self.size = size
        self.lazyStart = lazyStart
    }
}

/// All terminals that have not ended, by their ids.
package final class TerminalTable: Sendable {
    private struct State {
        var sessions: [String: TerminalSession] = [:]
        /// Ids of ended terminals, the oldest first.
        var ended: [String] = []
    }

    private let state = Mutex(State())
    private let processes: ProcessTable
    private let environment: EnvironmentStore
    private let workingDirectory: WorkingDirectory
    private let shells = ShellFinder()

    package init(processes: ProcessTable, environment: EnvironmentStore, workingDirectory: WorkingDirectory) {
        self.processes = processes
        self.environment = environment
        self.workingDirectory = workingDirectory
    }

    /// Makes a terminal of an interactive login shell, which starts when it is told to or gets its first client.
    /// - Throws: 400 naming what is wrong with the request, 409 if the id is taken, 429 if there are too many terminals.
    package func create(_ request: TerminalRequest, on loop: any EventLoop) async throws -> TerminalSession {
        try Self.checkID(request.id)
        var variables = try environment.merged(with: request.variables)
        let directory = try workingDirectory.resolve(request.directory ?? workingDirectory.path)
        guard try await onBlockingThread({ try FileStatus.of(directory)?.kind }) == .directory else {
            throw ToolboxError.badRequest("'cwd' is \(directory), which is no directory")
        }
        guard let shell = try await shells.find(in: variables) else {
            throw ToolboxError.badRequest("this image has no shell: none of zsh, bash, sh is in PATH")
        }
        // The daemon's own would be of a terminal that it was started on, if any.
        variables["TERM"] = request.variables["TERM"] ?? "xterm-256color"
        if variables["SHELL"] == nil { variables["SHELL"] = shell.path }
        let session = TerminalSession(
            id: request.id,
            program: ProgramSpecification(
                executable: shell.path,
                arguments: [shell.path, "-i", "-l"],
                environment: variables,
                directory: directory
            ),
            ownVariables: request.variables,
            size: request.size,
            lazyStart: request.lazyStart,
            processes: processes,
            on: loop
        )
        try add(session)
        return session
    }

    /// The terminals, the oldest first.
    package var all: [TerminalSession] {
        state.withLock { Array($0.sessions.values) }.sorted { ($0.createdAt, $0.id) < ($1.createdAt, $1.id) }
    }

    /// - Throws: 404 if there is none with this id, 410 if it has ended.
    package func session(_ id: String) throws -> TerminalSession {
        try state.withLock { state in
            if let session = state.sessions[id] { return session }
            if state.ended.contains(id) { throw TerminalSession.gone(id) }
            throw ToolboxError.unknown("no terminal '\(id)'; GET /process/pty lists them")
        }
    }

    /// Forgets a terminal, so that its id is free.
    package func remove(_ session: TerminalSession) {
        state.withLock { state in
            guard state.sessions[session.id] === session else { return }
            state.sessions[session.id] = nil
            state.ended.append(session.id)
            if state.ended.count > TerminalLimit.remembered { state.ended.removeFirst() }
        }
    }

    private func add(_ session: TerminalSession) throws {
        try state.withLock { state in
            guard state.sessions[session.id] == nil else {
                throw ToolboxError(.conflict, "CONFLICT", "terminal '\(session.id)' exists already; connect to it")
            }
            guard state.sessions.count < TerminalLimit.sessions else {
                throw ToolboxError(
                    .tooManyRequests,
                    "TOO_MANY_REQUESTS",
                    "there are \(TerminalLimit.sessions) terminals, the limit; end one with DELETE /process/pty/{id}"
                )
            }
            state.sessions[session.id] = session
            state.ended.removeAll { $0 == session.id }
        }
        // Weakly, or a session that never starts would keep itself. While it counts, the table holds it.
        session.ended.whenComplete { [weak self, weak session] _ in
            if let session { self?.remove(session) }
        }
    }

    private static func checkID(_ id: String) throws {
        guard !id.isEmpty else { throw ToolboxError.badRequest("'id' is empty") }
        guard id.utf8.count <= TerminalLimit.idBytes else {
            throw ToolboxError.badRequest("'id' is \(id.utf8.count) bytes long, the limit is \(TerminalLimit.idBytes)")
        }
        guard id.unicodeScalars.allSatisfy({ $0 != "/" && $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) })
        else {
            throw ToolboxError.badRequest("'id' holds a '/' or a control character, which cannot be in a path")
        }
        guard ![".", "..", "create-connect"].contains(id) else {
            throw ToolboxError.badRequest("'id' is '\(id)', which has a meaning in paths; choose another one")
        }
    }
}
