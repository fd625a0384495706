package import NIOCore

/// Limits of the messages that are exchanged with language servers.
package enum MessageLimit {
    /// Largest message that is taken from a server, in bytes.
    package static let bytes = 16 << 20
    /// Largest header of a message, in bytes.
    package static let headerBytes = 4 << 10
    /// Objects and arrays inside each other in one message; decoding goes that deep on the stack.
    package static let depth = 128
}

/// Why a server's output cannot be read on.
package struct MessageError: Error, Sendable, Equatable {
    package var reason: String
}

/// Cuts a server's output into messages: header lines of which `Content-Length` counts, an empty line, as many bytes.
package struct MessageParser {
    private var buffer = ByteBuffer()
    /// Length of the message whose header was read.
    private var length: Int?
    private let limit: Int

    package init(limit: Int = MessageLimit.bytes) {
        self.limit = limit
    }

    /// Takes the next piece of output and answers the messages that are complete with it.
    /// - Throws: when a header is malformed or a limit is exceeded; the parser cannot be used any more then.
    package mutating func take(_ piece: ByteBuffer) throws(MessageError) -> [ByteBuffer] {
        buffer.writeImmutableBuffer(piece)
        var messages: [ByteBuffer] = []
        while let message = try next() {
            try checkDepth(message)
            messages.append(message)
        }
        // A big message must not keep its memory when nothing follows it.
        if buffer.readableBytes == 0 { buffer = ByteBuffer() } else { buffer.discardReadBytes() }
        return messages
    }

    private mutating func next() throws(MessageError) -> ByteBuffer? {
        if length == nil { length = try readHeader() }
        guard let wanted = length, let message = buffer.readSlice(length: wanted) else { return nil }
        length = nil
        return message
    }

    /// Nil while the header is not complete.
    private mutating func readHeader() throws(MessageError) -> Int? {
        let view = buffer.readableBytesView.prefix(MessageLimit.headerBytes)
        guard let end = firstEmptyLine(in: view) else {
            guard view.count < MessageLimit.headerBytes else {
                throw MessageError(reason: "a message's header is longer than \(MessageLimit.headerBytes) bytes")
            }
            return nil
        }
        let text = String(decoding: view[..<end], as: UTF8.self)
        buffer.moveReaderIndex(forwardBy: end - view.startIndex + 4)
        return try contentLength(text)
    }

    private func contentLength(_ header: String) throws(MessageError) -> Int {
        var found: Int?
        for line in header.split(separator: "\r\n") {
            guard let colon = line.firstIndex(of: ":") else {
                throw MessageError(reason: "what should be a header is '\(line.prefix(80))'")
            }
            guard line[..<colon].lowercased() == "content-length" else { continue }
            let value = line[line.index(after: colon)...].filter { $0 != " " }
            guard found == nil, let count = Int(value), (0...limit).contains(count) else {
                throw MessageError(
                    reason: "a message's length is '\(value.prefix(40))', not one number up to \(limit), the limit"
                )
            }
            found = count
        }
        guard let found else { throw MessageError(reason: "a message's header has no Content-Length") }
        return found
    }
}

/// Where the first `\r\n\r\n` begins.
private func firstEmptyLine(in bytes: ByteBufferView) -> Int? {
    var at = bytes.startIndex
    while at + 3 < bytes.endIndex {
        if bytes[at] == 13, bytes[at + 1] == 10, bytes[at + 2] == 13, bytes[at + 3] == 10 { return at }
        at += 1
    }
    return nil
}

/// - Throws: if brackets outside of strings nest deeper than `MessageLimit.depth`.
private func checkDepth(_ json: ByteBuffer) throws(MessageError) {
    var (depth, inString, escaped) = (0, false, false)
    for byte in json.readableBytesView {
        switch byte {
        case _ where escaped: escaped = false
        case UInt8(ascii: "\\") where inString: escaped = true
        case UInt8(ascii: "\""): inString.toggle()
        case UInt8(ascii: "{") where !inString, UInt8(ascii: "[") where !inString: depth += 1
        case UInt8(ascii: "}") where !inString, UInt8(ascii: "]") where !inString: depth -= 1
        default: break
        }
        guard depth <= MessageLimit.depth else {
            throw MessageError(reason: "a message is nested deeper than \(MessageLimit.depth), the limit")
        }
    }
}
