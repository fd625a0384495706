import FoundationEssentials
import HTTPTypes

/// The error body of every component.
struct ErrorBody: Encodable {
    var statusCode: Int
    var error: String
    var code: String
    var message: String
    var path: String
    var timestamp: Date
    var source = "DAYTONA_API"

    init(_ error: APIError, path: String, at date: Date) {
        statusCode = error.status.code
        self.error = error.status.reasonPhrase
        code = Self.code(error.status)
        message = error.message
        self.path = path
        timestamp = date
    }

    /// The generic codes that the SDK knows.
    private static func code(_ status: HTTPResponse.Status) -> String {
        switch status.code {
        case 400: "BAD_REQUEST"
        case 401: "UNAUTHORIZED"
        case 403: "FORBIDDEN"
        case 404: "NOT_FOUND"
        case 405: "METHOD_NOT_ALLOWED"
        case 408: "REQUEST_TIMEOUT"
        case 409: "CONFLICT"
        case 413: "CONTENT_TOO_LARGE"
        case 422: "UNPROCESSABLE_ENTITY"
        case 429: "TOO_MANY_REQUESTS"
        case 501: "NOT_IMPLEMENTED"
        case 503: "SERVICE_UNAVAILABLE"
        default: "INTERNAL_SERVER_ERROR"
        }
    }
}
