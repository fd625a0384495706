import HTTPTypes
import Hummingbird

/// Who may ask.
enum Access: Sendable, Hashable {
    /// Anybody.
    case open
    /// Whoever has a valid key.
    case key
    /// A key that carries this permission.
    case permission(Permission)
}

/// One operation of the interface.
struct APIRoute: Sendable {
    let method: HTTPRequest.Method
    /// Below `/api`: `/sandbox/{idOrName}/start`.
    let pattern: String
    /// The operation's name in the published client.
    let operation: String
    let access: Access
    let handle: @Sendable (Call) async throws -> Response

    init(
        _ method: HTTPRequest.Method,
        _ pattern: String,
        _ operation: String,
        _ access: Access,
        _ handle: @escaping @Sendable (Call) async throws -> Response
    ) {
        self.method = method
        self.pattern = pattern
        self.operation = operation
        self.access = access
        self.handle = handle
    }
}

/// Finds the operation for a method and a path. Segments are compared as they were sent, and decoded afterwards, so that
/// an encoded slash stays within its segment. Words go before parameters.
struct RouteTable: Sendable {
    private final class Node: Sendable {
        let words: [Substring: Node]
        let parameter: Node?
        let routes: [HTTPRequest.Method: APIRoute]

        init(_ entries: [(segments: ArraySlice<Substring>, route: APIRoute)]) {
            var byWord: [Substring: [(segments: ArraySlice<Substring>, route: APIRoute)]] = [:]
            var below: [(segments: ArraySlice<Substring>, route: APIRoute)] = []
            var here: [HTTPRequest.Method: APIRoute] = [:]
            for entry in entries {
                guard let first = entry.segments.first else {
                    precondition(
                        here[entry.route.method] == nil,
                        "two routes for \(entry.route.method) \(entry.route.pattern)"
                    )
                    here[entry.route.method] = entry.route
                    continue
                }
                let rest = (segments: entry.segments.dropFirst(), route: entry.route)
                if first.hasPrefix("{") { below.append(rest) } else { byWord[first, default: []].append(rest) }
            }
            words = byWord.mapValues(Node.init)
            parameter = below.isEmpty ? nil : Node(below)
            routes = here
        }

        func find(_ segments: ArraySlice<Substring>) -> Node? {
            guard let first = segments.first else { return routes.isEmpty ? nil : self }
            if let found = words[first]?.find(segments.dropFirst()) { return found }
            return first.isEmpty ? nil : parameter?.find(segments.dropFirst())
        }
    }

    static let prefix = "/api"

    let routes: [APIRoute]
    private let root: Node

    init(_ routes: [APIRoute]) {
        self.routes = routes
        root = Node(routes.map { ($0.pattern.pathSegments[...], $0) })
    }

    /// The operation and the values of its parameters. Throws 404 where there is no such path, 405 where it knows other
    /// methods only.
    func resolve(_ method: HTTPRequest.Method, path: String) throws -> (route: APIRoute, parameters: [String: String]) {
        guard path == Self.prefix || path.hasPrefix(Self.prefix + "/") else { throw Self.noSuchPath(path) }
        let segments = String(path.dropFirst(Self.prefix.count)).pathSegments
        guard let node = root.find(segments[...]) else { throw Self.noSuchPath(path) }
        guard let route = node.routes[method] else {
            let known = node.routes.keys.map(\.rawValue).sorted().joined(separator: ", ")
            throw APIError(.methodNotAllowed, "\(path.shortened) does not know \(method.rawValue), only \(known)")
        }
        var parameters: [String: String] = [:]
        for (word, segment) in zip(route.pattern.pathSegments, segments) where word.hasPrefix("{") {
            parameters[String(word.dropFirst().dropLast())] = try String(segment).percentDecoded()
        }
        return (route, parameters)
    }

    private static func noSuchPath(_ path: String) -> APIError {
        .notFound("there is nothing at \(path.shortened); the interface begins at \(prefix)")
    }
}

extension String {
    /// What stands between slashes, after the first.
    fileprivate var pathSegments: [Substring] {
        split(separator: "/", omittingEmptySubsequences: false).dropFirst().map { $0 }
    }
}
