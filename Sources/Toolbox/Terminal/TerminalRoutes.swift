import FoundationEssentials
import HTTPTypes
import Hummingbird
import NIOCore
import WebSockets

/// Registers the routes of terminals (WIRE-CONTRACT 5.4).
func addTerminalRoutes(to routes: inout RouteMap, _ terminals: TerminalTable) {
    let rest = TerminalRoutes(terminals: terminals)
    routes.on(.post, "/process/pty") { try await rest.create($0) }
    routes.on(.get, "/process/pty") { try await rest.list($0) }
    routes.on(.get, "/process/pty/{id}") { try await rest.get($0) }
    routes.on(.delete, "/process/pty/{id}") { try await rest.delete($0) }
    routes.on(.post, "/process/pty/{id}/resize") { try await rest.resize($0) }
    let sockets = TerminalSockets(terminals: terminals)
    routes.onWebSocket("/process/pty/create-connect") { try await sockets.createConnect($0) }
    routes.onWebSocket("/process/pty/{id}/connect") { try await sockets.connect($0) }
}

/// The routes that are plain requests.
struct TerminalRoutes: Sendable {
    private struct Creation: Decodable {
        var id: String?
        var cwd: String?
        var envs: [String: String]?
        var cols: Int?
        var rows: Int?
        var lazyStart: Bool?
    }

    private struct Size: Decodable {
        var cols: Int
        var rows: Int
    }

    private struct Description: Encodable {
        var id: String
        var cwd: String
        var envs: [String: String]
        var cols: UInt16
        var rows: UInt16
        var createdAt: String
        var active: Bool
        var lazyStart: Bool

        init(_ session: TerminalSession) {
            let size = session.size
            id = session.id
            cwd = session.program.directory
            envs = session.ownVariables
            (cols, rows) = (size.columns, size.rows)
            createdAt = isoTimestamp(session.createdAt)
            active = session.isActive
            lazyStart = session.lazyStart
        }
    }

    let terminals: TerminalTable

    /// `POST /process/pty`. Without an id it is given one.
    func create(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(Creation.self)
        let request = TerminalRequest(
            id: body.id ?? UUID().uuidString.lowercased(),
            directory: body.cwd.flatMap { $0.isEmpty ? nil : $0 },
            variables: body.envs ?? [:],
            size: try terminalSize(columns: body.cols, rows: body.rows),
            lazyStart: body.lazyStart ?? false
        )
        let session = try await terminals.create(request, on: call.channel.eventLoop)
        if !request.lazyStart { session.start() }
        return try jsonResponse(["sessionId": session.id], status: .created)
    }

    /// `GET /process/pty`.
    func list(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(["sessions": terminals.all.map(Description.init)])
    }

    /// `GET /process/pty/{id}`.
    func get(_ call: ToolboxCall) async throws -> Response {
        try jsonResponse(Description(try terminals.session(call.parameters["id"] ?? "")))
    }

    /// `DELETE /process/pty/{id}`: answers when all its processes were killed and its clients can be told.
    func delete(_ call: ToolboxCall) async throws -> Response {
        let session = try terminals.session(call.parameters["id"] ?? "")
        terminals.remove(session)
        await session.kill()
        return try jsonResponse(["message": "terminal '\(session.id)' was killed"])
    }

    /// `POST /process/pty/{id}/resize`.
    func resize(_ call: ToolboxCall) async throws -> Response {
        let session = try terminals.session(call.parameters["id"] ?? "")
        let body = try await call.decode(Size.self)
        try await session.resize(try terminalSize(columns: body.cols, rows: body.rows))
        return try jsonResponse(Description(session))
    }
}

/// - Throws: 400 unless both are nil (the default, 80 times 24) or in `TerminalLimit.size`.
func terminalSize(columns: Int?, rows: Int?) throws -> TerminalSize {
    func checked(_ value: Int?, _ name: String, otherwise standard: UInt16) throws -> UInt16 {
        guard let value else { return standard }
        guard TerminalLimit.size.contains(value) else {
            throw ToolboxError.badRequest(
                "'\(name)' is \(value), not between \(TerminalLimit.size.lowerBound) and \(TerminalLimit.size.upperBound)"
            )
        }
        return UInt16(value)
    }
    return TerminalSize(
        columns: try checked(columns, "cols", otherwise: 80),
        rows: try checked(rows, "rows", otherwise: 24)
    )
}
