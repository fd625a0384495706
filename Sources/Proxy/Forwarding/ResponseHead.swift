import NIOCore

/// A response head from a sandbox, which is hostile: parsed as strictly as a request's.
struct ResponseHead {
    /// Exactly the head, its empty line included.
    let bytes: ByteBuffer
    let status: Int
    /// Code and reason, as received: `200 OK`.
    let statusText: Range<Int>
    let minorVersion: Int
    let fields: HeaderFields

    /// Parses `bytes`, which end with the first empty line.
    init(_ bytes: ByteBuffer, limits: ProxyLimits) throws(ProxyRefusal) {
        self.bytes = bytes
        let limit = limits.headFieldsLimit
        let parsed = bytes.withUnsafeReadableBytes { raw in
            Result { () throws(ProxyRefusal) in try Self.parse(raw, fieldsLimit: limit) }
        }
        (status, statusText, minorVersion, fields) = try parsed.get()
    }

    /// Where the body ends, by RFC 9112 6.3.
    func framing(answeringHEAD: Bool) -> MessageFraming {
        if answeringHEAD || status < 200 || status == 204 || status == 304 { return .none }
        if fields.isChunked { return .chunked }
        guard let length = fields.contentLength else { return .untilClose }
        return length == 0 ? .none : .length(length)
    }

    private static func parse(
        _ bytes: UnsafeRawBufferPointer,
        fieldsLimit: Int
    ) throws(ProxyRefusal) -> (Int, Range<Int>, Int, HeaderFields) {
        let expected: StaticString = "HTTP/1."
        guard bytes.count >= 16, (0..<7).allSatisfy({ bytes[$0] == expected.utf8Start[$0] }),
            bytes[7] == UInt8(ascii: "0") || bytes[7] == UInt8(ascii: "1"), bytes[8] == Syntax.space,
            let status = Syntax.decimal(bytes, 9..<12), (100...599).contains(status)
        else { throw .badGateway("it did not answer with HTTP/1.1") }
        var end = 12
        guard bytes[end] == Syntax.space || bytes[end] == Syntax.carriageReturn else {
            throw .badGateway("its status line is malformed")
        }
        while Syntax.isFieldValue(bytes[end]) { end += 1 }
        guard bytes[end] == Syntax.carriageReturn, bytes[end + 1] == Syntax.lineFeed else {
            throw .badGateway("its status line holds a control character")
        }
        let fields = try HeaderFields(bytes, from: end + 2, limit: fieldsLimit)
        return (status, 9..<end, Int(bytes[7] - 48), fields)
    }
}
