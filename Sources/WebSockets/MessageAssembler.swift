import NIOCore
import NIOWebSocket

/// Turns frames of the peer into messages, and enforces what RFC 6455 says of them. Knows no connection.
struct MessageAssembler {
    private let limitBytes: Int
    /// The message whose last frame is still to come.
    private var partial: (opcode: WebSocketOpcode, bytes: ByteBuffer)?

    init(limitBytes: Int) {
        self.limitBytes = limitBytes
    }

    /// Checks what holds for every frame of a client.
    func check(_ frame: WebSocketFrame) throws(WebSocketClose) {
        guard frame.maskKey != nil else {
            throw WebSocketClose(WebSocketClose.protocolError, "a client's frame is not masked")
        }
        guard !frame.rsv1, !frame.rsv2, !frame.rsv3 else {
            throw WebSocketClose(WebSocketClose.protocolError, "a reserved bit is set, but no extension was agreed on")
        }
    }

    /// Takes a data frame; answers the message that it completes.
    mutating func accept(_ frame: WebSocketFrame) throws(WebSocketClose) -> WebSocketMessage? {
        var message = try begin(frame.opcode)
        guard message.bytes.readableBytes + frame.length <= limitBytes else {
            throw WebSocketClose(WebSocketClose.tooLarge, "a message is larger than \(limitBytes) bytes, the limit")
        }
        message.bytes.writeImmutableBuffer(frame.unmaskedData)
        guard frame.fin else {
            partial = message
            return nil
        }
        guard message.opcode == .text else { return .binary(message.bytes) }
        guard let text = String(validating: message.bytes.readableBytesView, as: UTF8.self) else {
            throw WebSocketClose(WebSocketClose.notUTF8, "a text message is not UTF-8")
        }
        return .text(text)
    }

    private mutating func begin(_ opcode: WebSocketOpcode) throws(WebSocketClose) -> (
        opcode: WebSocketOpcode, bytes: ByteBuffer
    ) {
        let before = partial
        partial = nil
        switch opcode {
        case .continuation:
            guard let before else {
                throw WebSocketClose(WebSocketClose.protocolError, "a continuation without a beginning")
            }
            return before
        case .text, .binary:
            guard before == nil else {
                throw WebSocketClose(WebSocketClose.protocolError, "a message begins inside another")
            }
            return (opcode, ByteBuffer())
        default:
            throw WebSocketClose(WebSocketClose.protocolError, "unknown opcode")
        }
    }
}

extension WebSocketClose {
    /// Reads the content of a close frame.
    init(content: ByteBuffer) throws(WebSocketClose) {
        var content = content
        guard content.readableBytes > 0 else {
            self.init(Self.noStatus)
            return
        }
        guard let code = content.readInteger(as: UInt16.self), Self.mayBeSent(code) else {
            throw WebSocketClose(Self.protocolError, "a close frame has no valid code")
        }
        guard let reason = String(validating: content.readableBytesView, as: UTF8.self) else {
            throw WebSocketClose(Self.notUTF8, "the reason of a close frame is not UTF-8")
        }
        self.init(code, reason)
    }

    /// The content of a close frame, its reason cut at a character's border if it is too long.
    var content: ByteBuffer {
        var content = ByteBuffer()
        guard code != Self.noStatus else { return content }
        content.writeInteger(code)
        var room = Self.reasonLimitBytes
        for character in reason {
            room -= character.utf8.count
            if room < 0 { break }
            content.writeString(String(character))
        }
        return content
    }

    /// Codes that are defined, registered or private; the others must not be in a frame.
    private static func mayBeSent(_ code: UInt16) -> Bool {
        switch code {
        case 1000...1003, 1007...1014, 3000...4999: true
        default: false
        }
    }
}
