import FoundationEssentials
import Hummingbird
import NIOCore
import WebSockets

/// The code interpreter (WIRE-CONTRACT 5.11): contexts over HTTP, executions over WebSockets.
struct InterpreterRoutes: Sendable {
    struct CreateBody: Decodable {
        var cwd: String?
        var language: String?
    }

    struct ContextBody: Encodable {
        var id: String
        var cwd: String
        var createdAt: String
        /// Whether it takes executions: as long as it is there.
        var active = true
        var language = "python"

        init(_ context: InterpreterContext) {
            id = context.id
            cwd = context.directory
            createdAt = isoTimestamp(context.createdAt)
        }
    }

    let contexts: InterpreterContexts

    func create(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(CreateBody.self)
        guard ["", "python"].contains(body.language ?? "") else {
            throw ToolboxError.badRequest(
                "field 'language' is '\(body.language ?? "")', the interpreter runs python only; see /process/code-run"
            )
        }
        return try jsonResponse(ContextBody(try await contexts.create(directory: body.cwd)))
    }

    func list(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(["contexts": contexts.created.map { ContextBody($0) }])
    }

    func delete(_ call: ToolboxCall) async throws -> Response {
        try contexts.delete(call.parameters["id"] ?? "")
        return try jsonResponse(["message": "the context was deleted"])
    }

    func execute(_ call: ToolboxCall) async throws -> WebSocketAnswer {
        var limits = WebSocketLimits()
        limits.messageBytes = InterpreterLimit.requestBytes
        return .accept(limits: limits) { [contexts, loop = call.channel.eventLoop] socket in
            guard let message = await firstMessage(of: socket) else { return }
            do {
                let request = try ExecutionRequest(message)
                guard let context = contexts.find(request.contextID) else {
                    let unknown = InterpreterContexts.unknown(request.contextID ?? "")
                    return await socket.close(CloseCode.policy, unknown.message)
                }
                await converse(on: socket, Execution(request: request, context: context, socket: socket, loop: loop))
            } catch let error as ToolboxError {
                await socket.close(WebSocketClose.protocolError, error.message)
            }
        }
    }
}

/// Adds the code interpreter's routes.
func addInterpreterRoutes(to routes: inout RouteMap, _ contexts: InterpreterContexts) {
    let interpreter = InterpreterRoutes(contexts: contexts)
    routes.on(.post, "/process/interpreter/context") { try await interpreter.create($0) }
    routes.on(.get, "/process/interpreter/context") { try await interpreter.list($0) }
    routes.on(.delete, "/process/interpreter/context/{id}") { try await interpreter.delete($0) }
    routes.onWebSocket("/process/interpreter/execute") { try await interpreter.execute($0) }
}

/// Nil if none comes: then the WebSocket is closed.
private func firstMessage(of socket: WebSocket) async -> WebSocketMessage? {
    async let _: Void = closeIfSilent(socket)
    var messages = socket.messages.makeAsyncIterator()
    return await messages.next()  // and the alarm is cancelled
}

private func closeIfSilent(_ socket: WebSocket) async {
    guard (try? await Task.sleep(for: InterpreterLimit.firstMessage)) != nil else { return }
    await socket.close(
        WebSocketClose.protocolError,
        "no first message within \(InterpreterLimit.firstMessage); it says what to execute"
    )
}

/// Executes until the end or until the client is gone; what the client says meanwhile is read and dropped.
private func converse(on socket: WebSocket, _ execution: Execution) async {
    await withTaskGroup(of: Void.self) { tasks in
        tasks.addTask {
            let end = await execution.run()
            await socket.close(end.code, end.reason)
        }
        tasks.addTask { for await _ in socket.messages {} }
        // When the messages end first, the client is gone, and the execution is cancelled.
        await tasks.next()
        tasks.cancelAll()
    }
}
