import FoundationEssentials
import NIOCore

/// Why the proxy itself answers a request, instead of the sandbox.
struct ProxyRefusal: Error, Equatable, Sendable {
    var status: Int
    var code: String
    var message: String

    init(_ status: Int, _ code: String, _ message: String) {
        self.status = status
        self.code = code
        self.message = message
    }

    static func badRequest(_ message: String) -> Self { Self(400, "BAD_REQUEST", message) }
    static func unauthorized(_ message: String) -> Self { Self(401, "UNAUTHORIZED", message) }
    static func badGateway(_ message: String) -> Self { Self(502, "BAD_GATEWAY", message) }
    static func unavailable(_ message: String) -> Self { Self(503, "SERVICE_UNAVAILABLE", message) }
    static func timeout(_ message: String) -> Self { Self(504, "GATEWAY_TIMEOUT", message) }

    /// One answer for a sandbox that does not exist, is not placed or is another organization's.
    static let noSuchSandbox = Self(
        404,
        "NOT_FOUND",
        "no such sandbox; check its id, or wait until it is placed on a runner"
    )
    static let noSuchPath = Self(
        404,
        "NOT_FOUND",
        "the proxy serves /toolbox/<sandbox id>/<path> and /health; the id is a lower-case UUID"
    )

    /// The standard reason phrase.
    var reason: String {
        switch status {
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 409: "Conflict"
        case 417: "Expectation Failed"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 501: "Not Implemented"
        case 502: "Bad Gateway"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        case 505: "HTTP Version Not Supported"
        default: "Error"
        }
    }

    /// The whole response: head and JSON body.
    func response(path: String, requestID: String, closes: Bool, omitsBody: Bool) -> ByteBuffer {
        let body = Body(
            statusCode: status,
            error: reason,
            code: code,
            message: message,
            path: path,
            timestamp: Date().formatted(.iso8601),
            source: "DAYTONA_PROXY"
        )
        // Encoding a few strings and one integer cannot fail; an empty body would still be a valid answer.
        let json = (try? JSONEncoder().encode(body)).map { Array($0) } ?? []
        var head = "HTTP/1.1 \(status) \(reason)\r\nContent-Type: application/json\r\nContent-Length: \(json.count)\r\n"
        head += "X-Request-Id: \(requestID)\r\n"
        if status == 401 { head += "WWW-Authenticate: Bearer\r\n" }
        if closes { head += "Connection: close\r\n" }
        var response = ByteBuffer(string: head + "\r\n")
        if !omitsBody { response.writeBytes(json) }
        return response
    }

    private struct Body: Encodable {
        var statusCode: Int
        var error, code, message, path, timestamp, source: String
    }
}
