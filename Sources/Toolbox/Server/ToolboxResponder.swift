import HTTPTypes
package import Hummingbird
package import Logging
package import NIOCore
import WebSockets

/// What Hummingbird makes for each request.
package struct ToolboxContext: RequestContext {
    package typealias Source = ApplicationRequestContextSource
    package var coreContext: CoreRequestContextStorage
    package let channel: any Channel

    package init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
        channel = source.channel
    }
}

/// Checks the token, finds the route, and is the one place where an error becomes an answer.
package struct ToolboxResponder: HTTPResponder {
    package typealias Context = ToolboxContext

    private let token: AccessToken
    private let takesPages: Bool
    private let routes: RouteMap
    private let logger: Logger

    /// - Parameter takesPages: whether browsers use these routes, so that the origin of requests is looked at.
    package init(token: AccessToken, takesPages: Bool = false, routes: RouteMap, logger: Logger) {
        self.takesPages = takesPages
        self.token = token
        self.routes = routes
        self.logger = logger
    }

    package func respond(to request: Request, context: ToolboxContext) async throws -> Response {
        do {
            try admit(request)
            if takesPages { try TerminalPage.checkOrigin(request.headers, authority: request.head.authority) }
            let (answer, parameters) = try routes.resolve(request.head, request.uri.path)
            let call = ToolboxCall(
                request: request,
                query: QueryParameters(request.uri.query),
                parameters: parameters,
                channel: context.channel,
                logger: logger
            )
            return try await answer(call)
        } catch let error as ToolboxError {
            return errorResponse(error, to: request)
        } catch let refusal as WebSocketRefusal {
            var response = errorResponse(ToolboxError(refusal.status, "BAD_REQUEST", refusal.message), to: request)
            response.headers.append(contentsOf: refusal.headers)
            return response
        } catch let error where isConnectionLoss(error) {
            throw error
        } catch {
            logger.error("request failed", metadata: ["http.path": "\(request.uri.path)", "error": "\(error)"])
            return errorResponse(ToolboxError(.internalServerError, "INTERNAL_SERVER_ERROR", "\(error)"), to: request)
        }
    }

    private func admit(_ request: Request) throws {
        if request.method == .post, request.uri.path == InfoRoutes.initialization {
            try token.adopt(request.headers)
        } else {
            try token.check(request.headers)
        }
    }

    private func errorResponse(_ error: ToolboxError, to request: Request) -> Response {
        let body = ErrorBody(error, path: request.uri.path, method: request.method.rawValue)
        // An error body holds only strings and numbers, which always encode.
        return (try? jsonResponse(body, status: error.status)) ?? Response(status: error.status)
    }

    private func isConnectionLoss(_ error: any Error) -> Bool {
        error is CancellationError || error is ChannelError || error is IOError
    }
}
