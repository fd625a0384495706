import FoundationEssentials
import Glibc
package import HTTPTypes
import Hummingbird
import NIOCore

/// The one error of the daemon: what the caller is told. Everything thrown towards a route is this, or becomes an
/// `INTERNAL_SERVER_ERROR`.
package struct ToolboxError: Error, Sendable, Equatable {
    /// HTTP status of the answer.
    package var status: HTTPResponse.Status
    /// Machine-readable code, one of those of WIRE-CONTRACT 1.5.
    package var code: String
    /// Names the value, the limit and what to do.
    package var message: String

    package init(_ status: HTTPResponse.Status, _ code: String, _ message: String) {
        self.status = status
        self.code = code
        self.message = message
    }

    /// 400 for a request that cannot be understood.
    package static func badRequest(_ message: String) -> ToolboxError {
        ToolboxError(.badRequest, "BAD_REQUEST", message)
    }

    /// 400 for a body that is not the JSON asked for.
    package static func invalidBody(_ message: String) -> ToolboxError {
        ToolboxError(.badRequest, "INVALID_REQUEST_BODY", message)
    }

    /// 400 for a path that cannot name what was asked for.
    package static func invalidPath(_ message: String) -> ToolboxError {
        ToolboxError(.badRequest, "INVALID_FILE_PATH", message)
    }

    /// 404 for what a call made earlier and this daemon does not know; says so if another daemon may have known it.
    package static func unknown(_ message: String, code: String = "PROCESS_NOT_FOUND") -> ToolboxError {
        ToolboxError(.notFound, code, message + Legacy.explanation)
    }

    /// What a failed file operation means to the caller: 404 missing, 403 forbidden, 400 else.
    package static func file(_ number: CInt, _ action: String, _ path: String) -> ToolboxError {
        switch number {
        case ENOENT:
            ToolboxError(.notFound, "FILE_NOT_FOUND", "file not found: \(path)")
        case EACCES, EPERM, EROFS:
            ToolboxError(.forbidden, "FILE_ACCESS_DENIED", "cannot \(action) \(path): \(describeErrno(number))")
        case EEXIST:
            ToolboxError(.conflict, "CONFLICT", "cannot \(action) \(path): it exists already")
        case EIO:
            ToolboxError(.internalServerError, "FILE_READ_FAILED", "cannot \(action) \(path): \(describeErrno(number))")
        default:
            invalidPath("cannot \(action) \(path): \(describeErrno(number))")
        }
    }
}

/// The C library's words for an errno.
package func describeErrno(_ number: CInt) -> String {
    var text = [CChar](repeating: 0, count: 128)
    guard strerror_r(number, &text, text.count) == 0 else { return "error \(number)" }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// The error body that every component of Martlet sends.
struct ErrorBody: Encodable {
    var statusCode: Int
    var error: String
    var code: String
    var message: String
    var path: String
    var method: String
    var timestamp: String
    var source = "DAYTONA_DAEMON"

    init(_ error: ToolboxError, path: String, method: String) {
        statusCode = error.status.code
        self.error = error.status.reasonPhrase
        code = error.code
        message = error.message
        self.path = path
        self.method = method
        timestamp = isoTimestamp(.now)
    }
}

/// ISO 8601 in UTC with milliseconds.
func isoTimestamp(_ date: Date) -> String {
    date.formatted(.iso8601.year().month().day().time(includingFractionalSeconds: true).timeZone(separator: .omitted))
}
