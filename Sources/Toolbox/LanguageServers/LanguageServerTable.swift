import HTTPTypes
import Synchronization

/// The servers that were started and not stopped.
package final class LanguageServerTable: Sendable {
    private let servers = Mutex<[ServerProject: LanguageServer]>([:])
    private let surroundings: LanguageServerSurroundings

    package init(_ surroundings: LanguageServerSurroundings) {
        self.surroundings = surroundings
    }

    /// Starts a project's server; one that runs is left alone.
    /// - Throws: 429 above `LanguageServerLimit.servers`; what kept it from starting.
    package func start(_ project: ServerProject) async throws {
        let server = try servers.withLock { servers in
            if let known = servers[project] { return known }
            guard servers.count < LanguageServerLimit.servers else { throw Self.tooMany(servers.keys) }
            let server = LanguageServer(project, surroundings)
            servers[project] = server
            return server
        }
        do {
            try await server.start()
        } catch {
            remove(server)
            throw error
        }
    }

    /// - Throws: 400 unless it was started.
    package func server(of project: ServerProject) throws -> LanguageServer {
        guard let server = servers.withLock({ $0[project] }) else { throw Self.notStarted(project) }
        return server
    }

    /// Ends a project's server and all that it started.
    /// - Throws: 400 unless it was started.
    package func stop(_ project: ServerProject) async throws {
        guard let server = servers.withLock({ $0.removeValue(forKey: project) }) else {
            throw Self.notStarted(project)
        }
        await server.stop()
    }

    private func remove(_ server: LanguageServer) {
        servers.withLock { if $0[server.project] === server { $0[server.project] = nil } }
    }

    static func notStarted(_ project: ServerProject) -> ToolboxError {
        ToolboxError(
            .badRequest,
            "LSP_SERVER_NOT_INITIALIZED",
            "no \(project.language.rawValue) language server runs for \(project.path); start it first"
                + Legacy.explanation
        )
    }

    private static func tooMany(_ projects: some Collection<ServerProject>) -> ToolboxError {
        let names = projects.map { "\($0.language.rawValue) for \($0.path)" }.sorted().joined(separator: ", ")
        return ToolboxError(
            .tooManyRequests,
            "TOO_MANY_REQUESTS",
            "\(projects.count) language servers run, the limit; stop one of: \(names)"
        )
    }
}
