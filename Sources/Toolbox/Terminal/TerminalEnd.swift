import FoundationEssentials
import Glibc
import WebSockets

/// How a terminal ended.
package enum TerminalEnd: Sendable, Equatable {
    /// Its shell ended, with this code: 128 plus the signal if one ended it.
    case exited(Int)
    /// It could not be started, or was lost; says why.
    case failed(String)

    /// For recordings.
    var inWords: String {
        switch self {
        case .exited(let code): "exit code \(code)"
        case .failed(let reason): reason
        }
    }

    /// As the SDK shows it: nil for success.
    package var reason: String? {
        switch self {
        case .exited(0), .failed: nil
        case .exited(128 + Int(SIGINT)): "Ctrl+C"
        case .exited(128 + Int(SIGKILL)): "SIGKILL"
        case .exited(128 + Int(SIGTERM)): "SIGTERM"
        case .exited(let code) where (129...192).contains(code): "signal \(code - 128)"
        case .exited: "non-zero exit"
        }
    }
}

/// The control messages of a terminal's WebSocket (WIRE-CONTRACT 5.4).
struct TerminalControl: Encodable {
    var type: String? = "control"
    var status: String?
    var exitCode: Int?
    var exitReason: String?
    var error: String?

    static let connected = TerminalControl(status: "connected")

    /// The message for an end.
    init(ending end: TerminalEnd) {
        self.init(end)
        status = error == nil ? "exited" : "error"
    }

    /// The reason of the close frame for an end.
    init(closing end: TerminalEnd) {
        self.init(end)
        type = nil
        // Cut as text, since the frame would cut it as bytes and leave no JSON.
        while text.utf8.count > WebSocketClose.reasonLimitBytes, error?.isEmpty == false { error?.removeLast() }
    }

    private init(status: String) {
        self.status = status
    }

    private init(_ end: TerminalEnd) {
        switch end {
        case .exited(let code): (exitCode, exitReason) = (code, end.reason)
        // A close frame's reason is at most 123 bytes and must stay JSON.
        case .failed(let reason): error = String(reason.prefix(80))
        }
    }

    var text: String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // Strings and numbers always encode.
        return (try? encoder.encode(self)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
    }
}
