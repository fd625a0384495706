import FoundationEssentials
import HTTPTypes
package import Hummingbird
import Logging
import Store

/// The way of every request: resolve, authenticate, authorise, handle; errors become answers here and nowhere else; one line
/// of log for each.
package struct APIResponder: HTTPResponder {
    package typealias Context = APIContext

    let routes: RouteTable
    let authenticator: Authenticator
    let limits: APILimits

    package func respond(to request: Request, context: APIContext) async throws -> Response {
        let began = ContinuousClock.now
        let requestID = UUID().uuidString.lowercased()
        var logger = context.logger
        logger[metadataKey: "request.id"] = "\(requestID)"
        var operation = "none"
        var response: Response
        do {
            response = try await answer(request, context, logger, &operation)
        } catch {
            response = refusal(error, request, logger)
        }
        response.headers[Self.requestIDField] = requestID
        // Or its bytes would be read as the next answer's (RFC 9110, 9.3.2).
        if request.method == .head { response.body = .init() }
        logger.info(
            "request",
            metadata: [
                "http.method": "\(request.method.rawValue)", "http.path": "\(request.uri.path.shortened)",
                "http.status": "\(response.status.code)", "http.operation": "\(operation)",
                "http.remote": "\(context.remoteAddress)", "http.duration": "\(ContinuousClock.now - began)",
            ]
        )
        return response
    }

    private static let requestIDField = HTTPField.Name("X-Request-Id")!  // constants, and valid names
    private static let hostField = HTTPField.Name("Host")!

    private func answer(
        _ request: Request,
        _ context: APIContext,
        _ logger: Logger,
        _ operation: inout String
    ) async throws -> Response {
        try checkHost(of: request)
        let (route, parameters) = try routes.resolve(request.method, path: request.uri.path)
        operation = route.operation
        let caller = try await admit(request, context, route.access)
        let call = Call(
            request: request,
            parameters: parameters,
            query: try Query(request.uri.query),
            caller: caller,
            address: context.remoteAddress,
            limits: limits,
            logger: logger
        )
        return try await translatingErrors { try await route.handle(call) }
    }

    /// Throws 400 where the host is ambiguous or none: whatever is in front may have read another one (RFC 9112, 3.2). Nothing
    /// here depends on it, so a client of HTTP/1.0 may leave it out.
    private func checkHost(of request: Request) throws {
        // The first became the authority, so what is left among the fields is a second one.
        guard request.headers[Self.hostField] == nil else {
            throw APIError.badRequest("the request has more than one Host field; send one")
        }
        let host = request.head.authority ?? ""
        guard host.utf8.allSatisfy(\.mayBeInHost) else {
            throw APIError.badRequest("the Host field '\(host.shortened)' is not a host with an optional port")
        }
    }

    private func admit(_ request: Request, _ context: APIContext, _ access: Access) async throws -> Caller? {
        switch access {
        case .open: return nil
        case .key: return try await authenticator.caller(of: request.headers, from: context.remoteAddress)
        case .permission(let permission):
            let caller = try await authenticator.caller(of: request.headers, from: context.remoteAddress)
            try caller.require(permission)
            return caller
        }
    }

    private func refusal(_ error: any Error, _ request: Request, _ logger: Logger) -> Response {
        let refusal: APIError =
            switch error {
            case let error as APIError: error
            case let error as StoreError: APIError(error)
            case is CancellationError: APIError(.serviceUnavailable, "Martlet is shutting down. Try again in a second.")
            default:
                APIError(.internalServerError, "something went wrong in Martlet; its log has the cause", cause: error)
            }
        if refusal.status.kind == .serverError, refusal.status != .notImplemented {
            logger.error("request failed", metadata: ["error": "\(refusal.cause.map { "\($0)" } ?? refusal.message)"])
        }
        let body = ErrorBody(refusal, path: request.uri.path, at: Date())
        // Encoding fixed strings and numbers does not fail; if it did, the status still says enough.
        return (try? Response.json(body, status: refusal.status)) ?? Response(status: refusal.status)
    }
}

extension UInt8 {
    /// Letters, digits and the marks of names, addresses and ports.
    fileprivate var mayBeInHost: Bool {
        switch self {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"),
            UInt8(ascii: "~"), UInt8(ascii: ":"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "%"):
            true
        default: false
        }
    }
}
