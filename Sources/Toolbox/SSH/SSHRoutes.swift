import Glibc
import Hummingbird
import NIOCore
import SSHServing

/// The state of the SSH server, as it is told.
struct SSHStatus: Encodable, Sendable {
    struct Key: Encodable, Sendable {
        var key: String
        var expiresInSeconds: Int
    }

    /// Where it listens, absent until the first key.
    var port: Int?
    /// What the server shows to be known by, absent until the first key.
    var hostKey: String?
    /// Those that are logged in.
    var connections: Int
    var keys: [Key]
}

/// `/ssh/authorized-keys`: how the control plane lets keys in. Not of Daytona's API: the gateway calls it before it connects.
struct SSHRoutes: Sendable {
    private struct Body: Decodable {
        var keys: [String]
        var expiresInSeconds: Int?
    }

    let server: SSHServer

    /// `POST`: authorises keys, each for an hour unless told otherwise; those that are authorised stay so.
    func authorize(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(Body.self)
        guard !body.keys.isEmpty else { throw ToolboxError.badRequest("field 'keys' is empty") }
        let seconds = body.expiresInSeconds ?? 3600
        guard (1...SSHLimit.keySeconds).contains(seconds) else {
            throw ToolboxError.badRequest(
                "field 'expiresInSeconds' is \(seconds), not between 1 and \(SSHLimit.keySeconds)"
            )
        }
        let keys = try body.keys.enumerated().map { try PublicKey(line: $1, field: "field 'keys.\($0)'") }
        try server.authorize(keys, for: .seconds(seconds))
        return try jsonResponse(server.status)
    }

    /// `GET`: what is authorised, and where the server listens.
    func list(_ call: ToolboxCall) async throws -> Response { try jsonResponse(server.status) }

    /// `DELETE`, of the key of the query parameter or of all: its connections end.
    func revoke(_ call: ToolboxCall) async throws -> Response {
        let key = try call.query["key"].map { try PublicKey(line: $0, field: "query parameter 'key'") }
        server.revoke(key)
        return try jsonResponse(server.status)
    }
}

/// Adds the routes of the SSH server.
func addSSHRoutes(to routes: inout RouteMap, _ server: SSHServer) {
    let ssh = SSHRoutes(server: server)
    routes.on(.post, "/ssh/authorized-keys") { try await ssh.authorize($0) }
    routes.on(.get, "/ssh/authorized-keys") { try await ssh.list($0) }
    routes.on(.delete, "/ssh/authorized-keys") { try await ssh.revoke($0) }
}
