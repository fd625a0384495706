package import HTTPTypes
package import Hummingbird
package import WebSockets

/// Answers one call.
package typealias RouteAnswer = @Sendable (ToolboxCall) async throws -> Response

/// Accepts a WebSocket, or throws the error that the client gets instead of it.
package typealias WebSocketRouteAnswer = @Sendable (ToolboxCall) async throws -> WebSocketAnswer

extension HTTPRequest.Method {
    /// Stands in a `RouteMap` for a GET that asks to become a WebSocket. No parser takes it from outside.
    static let webSocket = HTTPRequest.Method(rawValue: "WEBSOCKET")!  // a constant that is a token
}

/// Which function answers which method and path. Paths are few and mostly fixed, so this is a dictionary; a `{name}`
/// segment takes any value. What is absent is told apart: unknown path 404, unknown method of a known path 405.
package struct RouteMap: Sendable {
    private struct Pattern: Sendable {
        var segments: [Substring]
        var answers: [HTTPRequest.Method: RouteAnswer]
    }

    private var fixed: [String: [HTTPRequest.Method: RouteAnswer]] = [:]
    private var patterns: [Pattern] = []
    private var prefixes: [(path: String, answers: [HTTPRequest.Method: RouteAnswer])] = []

    package init() {}

    /// Adds a route; a later one with the same method and path replaces it.
    package mutating func on(_ method: HTTPRequest.Method, _ path: String, _ answer: @escaping RouteAnswer) {
        guard path.contains("{") else {
            fixed[path, default: [:]][method] = answer
            return
        }
        let segments = path.split(separator: "/")
        if let index = patterns.firstIndex(where: { $0.segments == segments }) {
            patterns[index].answers[method] = answer
        } else {
            patterns.append(Pattern(segments: segments, answers: [method: answer]))
        }
    }

    /// Adds a WebSocket. The same path may have a route for plain requests; without one they are told to upgrade (426).
    package mutating func onWebSocket(_ path: String, _ answer: @escaping WebSocketRouteAnswer) {
        on(.webSocket, path) { call in
            let handshake = try WebSocketHandshake(call.request.head)
            return try await answer(call).response(to: handshake, on: call.channel, logger: call.logger)
        }
    }

    /// The function for a request and the values of its path's named segments.
    /// - Throws: 404, 405 or 426.
    package func resolve(_ request: HTTPRequest, _ path: String) throws -> (RouteAnswer, [String: String]) {
        try resolve(WebSocketHandshake.isAskedFor(by: request) ? .webSocket : request.method, path)
    }

    /// Adds a route for every path that begins so and has none of its own.
    package mutating func onPrefix(_ method: HTTPRequest.Method, _ path: String, _ answer: @escaping RouteAnswer) {
        if let index = prefixes.firstIndex(where: { $0.path == path }) {
            prefixes[index].answers[method] = answer
        } else {
            prefixes.append((path, [method: answer]))
        }
    }

    /// The function for a request and the values of its path's named segments.
    /// - Throws: 404 or 405.
    package func resolve(_ method: HTTPRequest.Method, _ path: String) throws -> (RouteAnswer, [String: String]) {
        if let answers = fixed[path] { return (try pick(method, from: answers, path), [:]) }
        let given = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst()
        for pattern in patterns {
            if let values = match(pattern.segments, given) {
                return (try pick(method, from: pattern.answers, path), values)
            }
        }
        for prefix in prefixes where path.hasPrefix(prefix.path) {
            return (try pick(method, from: prefix.answers, path), [:])
        }
        throw ToolboxError(.notFound, "NOT_FOUND", "no route \(path)")
    }

    private func pick(
        _ method: HTTPRequest.Method,
        from answers: [HTTPRequest.Method: RouteAnswer],
        _ path: String
    ) throws -> RouteAnswer {
        if let answer = answers[method] { return answer }
        guard answers.keys.contains(where: { $0 != .webSocket }) else {
            throw ToolboxError(
                .upgradeRequired,
                "BAD_REQUEST",
                "\(path) is a WebSocket; send the headers Upgrade: websocket and Connection: Upgrade"
            )
        }
        let known = answers.keys.map(\.rawValue).sorted().joined(separator: ", ")
        throw ToolboxError(
            .methodNotAllowed,
            "METHOD_NOT_ALLOWED",
            "\(method.rawValue) is not possible on \(path), only \(known)"
        )
    }

    private func match(_ pattern: [Substring], _ given: ArraySlice<Substring>) -> [String: String]? {
        guard pattern.count == given.count else { return nil }
        var values: [String: String] = [:]
        for (wanted, value) in zip(pattern, given) {
            if wanted.hasPrefix("{") {
                values[String(wanted.dropFirst().dropLast())] = decodePercent(value, plusIsSpace: false)
            } else if wanted != value {
                return nil
            }
        }
        return values
    }
}
