import HTTPTypes
import Store

/// What a request is refused with. Turned into a response in one place (`APIResponder`).
struct APIError: Error, Sendable {
    var status: HTTPResponse.Status
    /// Names the field or limit, its value, and what to do.
    var message: String
    /// What failed underneath: for the log, never for the client.
    var cause: (any Error)?

    init(_ status: HTTPResponse.Status, _ message: String, cause: (any Error)? = nil) {
        self.status = status
        self.message = message
        self.cause = cause
    }

    static func badRequest(_ message: String) -> APIError { APIError(.badRequest, message) }
    static func forbidden(_ message: String) -> APIError { APIError(.forbidden, message) }
    static func notFound(_ message: String) -> APIError { APIError(.notFound, message) }
    static func conflict(_ message: String) -> APIError { APIError(.conflict, message) }
    static func unsupported(_ message: String) -> APIError { APIError(.notImplemented, message) }

    /// The same words whether it never was, is gone, or is somebody else's.
    static func sandboxNotFound(_ idOrName: String) -> APIError {
        notFound("there is no sandbox with the id or name '\(idOrName.shortened)' in this organization")
    }
}

extension APIError {
    /// The status for what the tables refused.
    init(_ error: StoreError) {
        let words = error.hint.map { "\(error.message). \($0)" } ?? error.message
        switch error.code {
        case .notFound: self.init(.notFound, words, cause: error)
        case .nameTaken, .changedMeanwhile: self.init(.conflict, words, cause: error)
        case .ceilingReached: self.init(.forbidden, words, cause: error)
        // 409 and not 503: clients would repeat a 503 by themselves, and room does not come back in a second.
        case .noRoom, .inUse: self.init(.conflict, words, cause: error)
        case .invalidValue: self.init(.badRequest, words, cause: error)
        case .unavailable: self.init(.serviceUnavailable, words, cause: error)
        case .migrationRefused, .failed:
            self.init(.internalServerError, "something went wrong in Martlet; its log has the cause", cause: error)
        }
    }
}

extension String {
    /// For messages: what came from outside, cut to a length that a person reads.
    var shortened: String { count <= 80 ? self : prefix(80) + "…" }
}
