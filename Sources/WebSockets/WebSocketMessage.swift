package import NIOCore

/// A whole message, however many frames it came in.
package enum WebSocketMessage: Sendable, Equatable {
    /// Always valid UTF-8.
    case text(String)
    case binary(ByteBuffer)

    /// Bytes of its content.
    package var count: Int {
        switch self {
        case .text(let text): text.utf8.count
        case .binary(let bytes): bytes.readableBytes
        }
    }
}

/// How one end told the other that it closes: the content of a close frame.
package struct WebSocketClose: Error, Sendable, Equatable {
    /// RFC 6455 7.4. `noStatus` for a close frame without a code, `abnormal` for a connection that broke.
    package var code: UInt16
    /// At most 123 bytes are sent.
    package var reason: String

    package init(_ code: UInt16, _ reason: String = "") {
        self.code = code
        self.reason = reason
    }

    package static let normal: UInt16 = 1000
    package static let goingAway: UInt16 = 1001
    package static let protocolError: UInt16 = 1002
    package static let noStatus: UInt16 = 1005
    package static let abnormal: UInt16 = 1006
    package static let notUTF8: UInt16 = 1007
    package static let tooLarge: UInt16 = 1009
    package static let internalError: UInt16 = 1011

    /// A close frame's content is at most 125 bytes, two of them the code.
    package static let reasonLimitBytes = 123
}

/// Limits and times of a connection. The defaults suit a terminal or a log.
package struct WebSocketLimits: Sendable {
    /// Largest message taken from the peer, in bytes, all its frames together; larger ones close with 1009.
    package var messageBytes = 4 << 20
    /// Messages that wait to be taken by the program, in bytes; above it nothing more is read from the peer.
    package var unreadBytes = 256 << 10
    /// Messages of ours go out in frames of at most so many bytes, so that a pong waits for one frame only.
    package var frameBytes = 32 << 10
    /// Calls of `send` that wait at a time.
    package var waitingSends = 256
    /// Time between our pings.
    package var pingInterval = TimeAmount.seconds(20)
    /// A peer from which nothing came for so long is given up, unless it is us who do not read.
    package var silence = TimeAmount.seconds(60)
    /// Longest wait for the peer's part of the closing handshake.
    package var closeWait = TimeAmount.seconds(3)

    package init() {}
}
