import CTerminalPage
import HTTPTypes
import Hummingbird
import NIOCore

/// The web terminal: a page that shows this sandbox's terminals, on the routes that the SDK uses for them.
enum TerminalPage {
    /// Where previews find it.
    static let port = 22222

    /// Registers the page and what it loads. All names are relative, so that it works below any prefix.
    static func addRoutes(to routes: inout RouteMap) {
        routes.on(.get, "/") { _ in
            answer(ByteBuffer(staticString: TerminalPageText.html), "text/html; charset=utf-8")
        }
        routes.on(.get, "/terminal.js") { _ in
            answer(ByteBuffer(staticString: TerminalPageText.script), "text/javascript; charset=utf-8")
        }
        routes.on(.get, "/xterm.js") { _ in answer(try part(martlet_xterm_script), "text/javascript; charset=utf-8") }
        routes.on(.get, "/xterm.css") { _ in answer(try part(martlet_xterm_style), "text/css; charset=utf-8") }
    }

    /// A browser sends the cookies of a preview with requests that any page on the web makes. So what comes from a page must
    /// come from this one. The proxy says the host that the browser asked for; a client of its own sends no origin.
    /// - Throws: 403.
    static func checkOrigin(_ headers: HTTPFields, authority: String?) throws {
        guard let origin = headers[.origin] else { return }
        let host = headers[.forwardedHost] ?? authority
        let scheme = origin.hasPrefix("https://") ? "https://" : "http://"
        guard let host, origin.lowercased() == scheme + host.lowercased() else {
            throw ToolboxError(.forbidden, "FORBIDDEN", "requests from pages of \(origin) are not taken")
        }
    }

    private static func part(_ content: (UnsafeMutablePointer<Int>) -> UnsafeRawPointer?) throws -> ByteBuffer {
        var length = 0
        guard let start = content(&length), length > 0 else {
            throw ToolboxError(
                .notImplemented,
                "NOT_IMPLEMENTED",
                "this daemon was built without xterm.js; install node-xterm and build it again"
            )
        }
        return ByteBuffer(bytes: UnsafeRawBufferPointer(start: start, count: length))
    }

    private static func answer(_ content: ByteBuffer, _ type: String) -> Response {
        let headers: HTTPFields = [
            .contentType: type, .cacheControl: "no-cache", .xContentTypeOptions: "nosniff",
            .contentSecurityPolicy:
                "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'self'",
        ]
        return Response(status: .ok, headers: headers, body: ResponseBody(byteBuffer: content))
    }
}

extension HTTPField.Name {
    /// Only the proxy sets it: what clients send of it is left out.
    fileprivate static let forwardedHost = HTTPField.Name("X-Forwarded-Host")!  // a constant that is a valid name
}
