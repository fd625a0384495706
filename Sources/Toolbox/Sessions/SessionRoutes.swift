import FoundationEssentials
import HTTPTypes
import Hummingbird
import NIOCore
import WebSockets

/// Sessions and the entrypoint (WIRE-CONTRACT 5.3).
struct SessionRoutes: Sendable {
    private struct CreateBody: Decodable {
        var sessionId: String
    }

    private struct ExecuteBody: Decodable {
        var command: String
        var runAsync: Bool?
        var async: Bool?
        var suppressInputEcho: Bool?
    }

    private struct InputBody: Decodable {
        var data: String
    }

    let surroundings: Session.Surroundings
    let environment: EnvironmentStore
    let workingDirectory: WorkingDirectory
    private let sessions = SessionTable()
    private let shells = ShellFinder()

    init(surroundings: Session.Surroundings, environment: EnvironmentStore, workingDirectory: WorkingDirectory) {
        self.surroundings = surroundings
        self.environment = environment
        self.workingDirectory = workingDirectory
    }

    func create(_ call: ToolboxCall) async throws -> Response {
        let id = try await call.decode(CreateBody.self).sessionId
        try await sessions.add(id) { try await start(id, on: call.channel.eventLoop) }
        return emptyResponse(.created)
    }

    func list(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(sessions.all.map { SessionDescription($0) })
    }

    func get(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(SessionDescription(try session(call)))
    }

    func delete(_ call: ToolboxCall) async throws -> Response {
        let session = try sessions.remove(try call.parameter("id"))
        await session.delete()
        return emptyResponse(.noContent)
    }

    func execute(_ call: ToolboxCall) async throws -> Response {
        let session: Session
        do { session = try self.session(call) } catch {
            await call.drain()
            throw error
        }
        let body = try await call.decode(ExecuteBody.self)
        try check(body.command)
        let request = SessionCommand.Request(
            text: body.command,
            isAsync: body.runAsync ?? body.async ?? false,
            echoesInput: !(body.suppressInputEcho ?? false)
        )
        let command = try session.enqueue(request, as: UUID().uuidString.lowercased())
        guard !command.isAsync else { return try jsonResponse(["cmdId": command.id], status: .accepted) }
        let exitCode = try await outcome(of: command, for: call)
        guard !session.isDeleted else {
            throw ToolboxError(.gone, "SESSION_ENDED", "session '\(session.id)' was deleted while the command ran")
        }
        return await LogText(command.log, fields: "\"cmdId\":\"\(command.id)\",\"exitCode\":\(exitCode)").response()
    }

    /// A client that goes away gets its connection back at once; the command goes on.
    private func outcome(of command: SessionCommand, for call: ToolboxCall) async throws -> Int {
        let answer = call.channel.eventLoop.makePromise(of: Int.self)
        command.outcome.cascade(to: answer)
        return try await call.whileConnected(onDisconnect: { answer.fail(CancellationError()) }) {
            try await answer.futureResult.get()
        }
    }

    func command(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(CommandDescription(try found(call).command))
    }

    func logs(_ call: ToolboxCall) async throws -> Response {
        let log = try found(call).command.log
        _ = try call.query.flag("follow")  // a plain request cannot follow, and gets what there is
        return await LogText(log).response()
    }

    func follow(_ call: ToolboxCall) throws -> WebSocketAnswer {
        try LogFollower.accept(try found(call).command.log)
    }

    func input(_ call: ToolboxCall) async throws -> Response {
        let data = try await call.decode(InputBody.self).data
        let (session, command) = try found(call)
        guard data.utf8.count <= SessionLimit.unreadInputBytes else {
            throw ToolboxError.badRequest(
                "field 'data' is \(data.utf8.count) bytes long, the limit is \(SessionLimit.unreadInputBytes); send it in parts"
            )
        }
        try await session.send(data, to: command)
        return emptyResponse(.noContent)
    }

    private func start(_ id: String, on loop: any EventLoop) async throws -> Session {
        let variables = environment.current
        guard let shell = try await shells.find(in: variables) else {
            throw ToolboxError(
                .unprocessableContent,
                "UNPROCESSABLE_ENTITY",
                "this image has no shell: none of zsh, bash, sh is in PATH"
            )
        }
        do {
            return try await Session.start(
                id,
                shell,
                environment: variables,
                directory: workingDirectory.path,
                in: surroundings,
                on: loop
            )
        } catch let failure as LaunchFailure {
            throw ToolboxError(
                .internalServerError,
                "INTERNAL_SERVER_ERROR",
                "cannot start the session's shell: \(failure.reason)"
            )
        }
    }

    private func session(_ call: ToolboxCall) throws -> Session {
        try sessions.find(try call.parameter("id"))
    }

    private func found(_ call: ToolboxCall) throws -> (session: Session, command: SessionCommand) {
        let session = try session(call)
        return (session, try session.command(try call.parameter("command")))
    }

    private func check(_ command: String) throws {
        guard !command.allSatisfy(\.isWhitespace) else { throw ToolboxError.badRequest("field 'command' is empty") }
        guard !command.utf8.contains(0) else { throw ToolboxError.badRequest("field 'command' holds a NUL") }
        guard command.utf8.count <= SessionLimit.textBytes else {
            throw ToolboxError.badRequest(
                "field 'command' is \(command.utf8.count) bytes long, the limit is \(SessionLimit.textBytes); put it in a file and run that"
            )
        }
    }
}

/// A session on the wire.
struct SessionDescription: Encodable {
    var sessionId: String
    var commands: [CommandDescription]

    init(sessionId: String, commands: [CommandDescription]) {
        self.sessionId = sessionId
        self.commands = commands
    }

    init(_ session: Session) {
        self.init(sessionId: session.id, commands: session.commands.map { CommandDescription($0) })
    }
}

/// A command on the wire.
struct CommandDescription: Encodable {
    var id: String
    var command: String
    /// Absent while it runs.
    var exitCode: Int?

    init(id: String, command: String, exitCode: Int?) {
        self.id = id
        self.command = command
        self.exitCode = exitCode
    }

    init(_ command: SessionCommand) {
        self.init(id: command.id, command: command.text, exitCode: command.exitCode)
    }
}

extension ToolboxCall {
    /// A named segment of the path; the route's pattern has it.
    fileprivate func parameter(_ name: String) throws -> String {
        guard let value = parameters[name], !value.isEmpty else {
            throw ToolboxError.badRequest("the path's '\(name)' is empty")
        }
        return value
    }
}

/// Adds the routes of sessions and of the entrypoint, whose fixed paths take precedence.
func addSessionRoutes(to routes: inout RouteMap, _ sessions: SessionRoutes, _ entrypoint: Entrypoint) {
    let command = "/process/session/{id}/command/{command}"
    routes.on(.get, "/process/session") { try await sessions.list($0) }
    routes.on(.post, "/process/session") { try await sessions.create($0) }
    routes.on(.get, "/process/session/{id}") { try await sessions.get($0) }
    routes.on(.delete, "/process/session/{id}") { try await sessions.delete($0) }
    routes.on(.post, "/process/session/{id}/exec") { try await sessions.execute($0) }
    routes.on(.get, command) { try await sessions.command($0) }
    routes.on(.post, "\(command)/input") { try await sessions.input($0) }
    routes.on(.get, "\(command)/logs") { try await sessions.logs($0) }
    routes.onWebSocket("\(command)/logs") { try sessions.follow($0) }
    routes.on(.get, "/process/session/entrypoint") { try await entrypoint.session($0) }
    routes.on(.get, "/process/session/entrypoint/logs") { try await entrypoint.logs($0) }
    routes.onWebSocket("/process/session/entrypoint/logs") { try entrypoint.follow($0) }
}
