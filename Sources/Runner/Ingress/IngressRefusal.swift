package import Domain

/// Why a CONNECT is not served. Each case is one answer on the wire.
package enum IngressRefusal: Error, Sendable, Hashable {
    case malformed(String)
    case badToken
    case notHere(SandboxID)
    case staleEpoch(SandboxID, asked: Int, held: Int)
    case notRunning(SandboxID, state: String)
    case tooManyTunnels(limit: Int, scope: String)
    case refusedInside(SandboxID, port: Int, reason: String)
    case timedOut(SandboxID, port: Int)
    case `internal`(String)

    /// The HTTP status and the machine-readable code of the answer.
    package var status: (number: Int, reason: String, code: String) {
        switch self {
        case .malformed: (400, "Bad Request", "BAD_REQUEST")
        case .badToken: (403, "Forbidden", "FORBIDDEN")
        case .notHere, .staleEpoch: (404, "Not Found", "NOT_FOUND")
        case .notRunning: (409, "Conflict", "CONFLICT")
        case .tooManyTunnels: (503, "Service Unavailable", "SERVICE_UNAVAILABLE")
        case .refusedInside: (502, "Bad Gateway", "BAD_GATEWAY")
        case .timedOut: (504, "Gateway Timeout", "GATEWAY_TIMEOUT")
        case .internal: (500, "Internal Server Error", "INTERNAL_SERVER_ERROR")
        }
    }

    /// What happened and what to do, for a person. Never contains bytes of the request.
    package var message: String {
        switch self {
        case .malformed(let what): "the CONNECT request is not well formed: \(what)"
        case .badToken: "the tunnel token is missing, wrong or expired; proxy and runner must share secret and clock"
        case .notHere(let id): "sandbox \(id) is not on this runner"
        case .staleEpoch(let id, let asked, let held):
            "sandbox \(id) is held under epoch \(held), not \(asked); read its route again"
        case .notRunning(let id, let state): "sandbox \(id) is \(state); start it first"
        case .tooManyTunnels(let limit, let scope):
            "limit of \(limit) open tunnels \(scope) is reached; try again later"
        case .refusedInside(let id, let port, let reason):
            "nothing answers on 127.0.0.1:\(port) in sandbox \(id): \(reason); start a server there"
        case .timedOut(let id, let port):
            "127.0.0.1:\(port) in sandbox \(id) did not accept a connection in time; the server there is overloaded"
        case .internal(let what): "the runner could not open the tunnel: \(what)"
        }
    }
}
