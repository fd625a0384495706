import HTTPTypes
import Hummingbird

/// `/lsp/…`: symbols and completions from real language servers (WIRE-CONTRACT 5.9).
package struct LanguageServerRoutes: Sendable {
    private struct ServerBody: Decodable {
        var languageId: String
        var pathToProject: String
    }

    private struct DocumentBody: Decodable {
        var languageId: String
        var pathToProject: String
        var uri: String
    }

    private struct CompletionBody: Decodable {
        var languageId: String
        var pathToProject: String
        var uri: String
        var position: DocumentPosition
        var context: CompletionContext?
    }

    let table: LanguageServerTable
    let workingDirectory: WorkingDirectory

    func start(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(ServerBody.self)
        let project = try project(body.languageId, body.pathToProject)
        try await onBlockingThread { try Self.requireFolder(project.path) }
        try await translated(project) { try await table.start(project) }
        return emptyResponse(.ok)
    }

    func stop(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(ServerBody.self)
        try await table.stop(try project(body.languageId, body.pathToProject))
        return emptyResponse(.ok)
    }

    func didOpen(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(DocumentBody.self)
        let project = try project(body.languageId, body.pathToProject)
        try await onServer(of: project, for: call) { session in
            try await session.open(try await document(body.uri, project))
        }
        return emptyResponse(.ok)
    }

    func didClose(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(DocumentBody.self)
        let project = try project(body.languageId, body.pathToProject)
        let candidates = try DocumentPath.candidates(body.uri, in: project, workingDirectory)
        try await onServer(of: project, for: call) { session in try session.close(candidates) }
        return emptyResponse(.ok)
    }

    func documentSymbols(_ call: ToolboxCall) async throws -> Response {
        let project = try project(in: call.query)
        let uri = try call.query.required("uri")
        let symbols = try await onServer(of: project, for: call) { session in
            try await session.documentSymbols(try await document(uri, project))
        }
        return try jsonResponse(symbols)
    }

    func workspaceSymbols(_ call: ToolboxCall) async throws -> Response {
        let project = try project(in: call.query)
        let query = call.query["query"] ?? ""
        let symbols = try await onServer(of: project, for: call) { session in
            try await session.workspaceSymbols(query)
        }
        return try jsonResponse(symbols)
    }

    func completions(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(CompletionBody.self)
        let project = try project(body.languageId, body.pathToProject)
        let place = CompletionPlace(position: try checked(body.position), context: body.context)
        let list = try await onServer(of: project, for: call) { session in
            try await session.completions(try await document(body.uri, project), at: place)
        }
        return try jsonResponse(list)
    }

    /// Runs a call on a project's server until it is done or its client went away.
    private func onServer<Value: Sendable>(
        of project: ServerProject,
        for call: ToolboxCall,
        _ body: @escaping @Sendable (ServerSession) async throws -> Value
    ) async throws -> Value {
        let server = try table.server(of: project)
        // Awaited below, whatever happens.
        let work = Task { try await server.perform(body) }
        return try await translated(project) {
            try await call.whileConnected(onDisconnect: { work.cancel() }) { try await work.value }
        }
    }

    private func project(in query: QueryParameters) throws -> ServerProject {
        try project(try query.required("languageId"), try query.required("pathToProject"))
    }

    private func project(_ language: String, _ path: String) throws -> ServerProject {
        guard let language = LanguageID(rawValue: language) else {
            let known = LanguageID.allCases.map(\.rawValue).joined(separator: ", ")
            throw ToolboxError.badRequest("languageId is '\(language.prefix(40))', not one of \(known)")
        }
        return ServerProject(language: language, path: normalizedPath(try workingDirectory.resolve(path)))
    }

    private func document(_ uri: String, _ project: ServerProject) async throws -> String {
        let candidates = try DocumentPath.candidates(uri, in: project, workingDirectory)
        return try await onBlockingThread { try DocumentPath.existing(candidates) }
    }

    /// LSP's numbers end at 2^31 - 1.
    private func checked(_ position: DocumentPosition) throws -> DocumentPosition {
        let range = 0...Int(Int32.max)
        guard range.contains(position.line), range.contains(position.character) else {
            throw ToolboxError.badRequest(
                "field 'position' is line \(position.line), character \(position.character), not both in \(range)"
            )
        }
        return position
    }

    private static func requireFolder(_ path: String) throws {
        guard let status = try FileStatus.of(path) else {
            throw ToolboxError(.notFound, "FILE_NOT_FOUND", "the project's folder is not there: \(path)")
        }
        guard status.kind == .directory else {
            throw ToolboxError.invalidPath("the project's path is a \(status.kind.name), not a folder: \(path)")
        }
    }
}

/// Runs `body` and says in HTTP what went wrong between the daemon and the server.
private func translated<Value>(_ project: ServerProject, _ body: () async throws -> Value) async throws -> Value {
    let server = "the \(project.language.rawValue) language server of \(project.path)"
    do {
        return try await body()
    } catch let lost as ServerLost {
        throw ToolboxError(.internalServerError, "INTERNAL_SERVER_ERROR", "\(server) was lost: \(lost.reason)")
    } catch let late as ServerLate {
        throw ToolboxError(
            .requestTimeout,
            "REQUEST_TIMEOUT",
            "\(server) did not answer \(late.method) within \(late.limit.components.seconds) s, the limit"
        )
    } catch is CancellationError {
        throw LanguageServerTable.notStarted(project)  // it was stopped meanwhile, or nobody is left to be told
    } catch is ServerBusy {
        throw ToolboxError(
            .tooManyRequests,
            "TOO_MANY_REQUESTS",
            "\(server) has \(LanguageServerLimit.waitingRequests) requests or \(LanguageServerLimit.queuedBytes) bytes waiting, "
                + "the limit; wait for answers before asking more"
        )
    } catch let refusal as ServerRefusal where refusal.code == ServerRefusal.methodNotFound {
        throw ToolboxError(
            .notImplemented,
            "NOT_IMPLEMENTED",
            "\(server) cannot do this: \(refusal.message); another server, like basedpyright for Python, may"
        )
    } catch let refusal as ServerRefusal {
        throw ToolboxError(.internalServerError, "INTERNAL_SERVER_ERROR", "\(server) refused: \(refusal.message)")
    } catch let error as MessageError {
        throw ToolboxError(.internalServerError, "INTERNAL_SERVER_ERROR", "\(server) answered badly: \(error.reason)")
    }
}

/// Adds the routes of the language servers.
func addLanguageServerRoutes(to routes: inout RouteMap, _ table: LanguageServerTable, _ directory: WorkingDirectory) {
    let servers = LanguageServerRoutes(table: table, workingDirectory: directory)
    routes.on(.post, "/lsp/start") { try await servers.start($0) }
    routes.on(.post, "/lsp/stop") { try await servers.stop($0) }
    routes.on(.post, "/lsp/did-open") { try await servers.didOpen($0) }
    routes.on(.post, "/lsp/did-close") { try await servers.didClose($0) }
    routes.on(.get, "/lsp/document-symbols") { try await servers.documentSymbols($0) }
    routes.on(.get, "/lsp/workspacesymbols") { try await servers.workspaceSymbols($0) }
    routes.on(.post, "/lsp/completions") { try await servers.completions($0) }
}
