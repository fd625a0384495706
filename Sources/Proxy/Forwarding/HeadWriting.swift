import NIOCore

/// What the proxy adds to a request on its way to a sandbox.
struct RequestAdditions {
    /// `X-Martlet-Token: …` with CRLF, or empty.
    var tokenLine: String
    var clientAddress: String
    var requestID: String
}

extension RequestHead {
    /// Writes the head for the sandbox: `path` for the target, fields of this hop and of ours left out, our own added.
    ///
    /// The request id is kept where the client gave one. Expect is left out: the proxy answers it.
    func write(to buffer: inout ByteBuffer, path: Range<Int>, adding additions: RequestAdditions, upgrades: Bool) {
        bytes.withUnsafeReadableBytes { raw in
            buffer.writeBytes(raw[method])
            buffer.writeInteger(Syntax.space)
            if path.isEmpty { buffer.writeStaticString("/") } else { buffer.writeBytes(raw[path]) }
            buffer.writeStaticString(" HTTP/1.1\r\n")
            for field in fields.list where Self.passes(field) { buffer.writeBytes(raw[field.line]) }
            if let host = fields.host {
                buffer.writeStaticString("X-Forwarded-Host: ")
                buffer.writeBytes(raw[host])
                buffer.writeStaticString("\r\n")
            } else {
                buffer.writeStaticString("Host: sandbox\r\n")
            }
        }
        buffer.writeString(additions.tokenLine)
        buffer.writeStaticString("X-Forwarded-Proto: http\r\nX-Forwarded-For: ")
        buffer.writeString(additions.clientAddress)
        if !fields.hasRequestID {
            buffer.writeStaticString("\r\nX-Request-Id: ")
            buffer.writeString(additions.requestID)
        }
        if fields.isChunked { buffer.writeStaticString("\r\nTransfer-Encoding: chunked") }
        if upgrades { buffer.writeStaticString("\r\nConnection: Upgrade\r\nUpgrade: websocket") }
        buffer.writeStaticString("\r\n\r\n")
    }

    private static func passes(_ field: HeaderField) -> Bool {
        switch field.kind {
        case .other: !field.isNominated
        case .host, .contentLength, .requestID, .skipActivity: true
        case .transferEncoding, .connection, .upgrade, .expect, .authorization, .hopByHop, .forwarded, .ours: false
        }
    }
}

extension ResponseHead {
    /// How the body changes between sandbox and client.
    enum BodyChange {
        case none
        /// The client speaks HTTP/1.0, the sandbox sent chunks.
        case dechunk
        /// The sandbox ends its body by closing; the client gets chunks, so that a cut is seen.
        case chunk
    }

    /// Writes the head for the client.
    func write(to buffer: inout ByteBuffer, change: BodyChange, closes: Bool) {
        buffer.writeStaticString("HTTP/1.1 ")
        bytes.withUnsafeReadableBytes { raw in
            buffer.writeBytes(raw[statusText])
            buffer.writeStaticString("\r\n")
            for field in fields.list where Self.passes(field) { buffer.writeBytes(raw[field.line]) }
        }
        if status == 101 {
            buffer.writeStaticString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
        } else {
            if fields.isChunked ? change != .dechunk : change == .chunk {
                buffer.writeStaticString("Transfer-Encoding: chunked\r\n")
            }
            if closes { buffer.writeStaticString("Connection: close\r\n") }
        }
        buffer.writeStaticString("\r\n")
    }

    private static func passes(_ field: HeaderField) -> Bool {
        switch field.kind {
        case .other: !field.isNominated
        case .host, .contentLength, .requestID, .skipActivity, .expect, .authorization, .forwarded: true
        case .transferEncoding, .connection, .upgrade, .hopByHop, .ours: false
        }
    }
}
