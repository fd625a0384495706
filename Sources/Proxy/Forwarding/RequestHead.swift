import NIOCore

/// A client's request head, strictly parsed: HTTP/1.0 or 1.1, origin form, one Host.
struct RequestHead {
    /// Exactly the head, its empty line included.
    let bytes: ByteBuffer
    let method: Range<Int>
    let target: Range<Int>
    /// 0 or 1.
    let minorVersion: Int
    let fields: HeaderFields
    let isHEAD: Bool
    /// Whether sending it twice does no harm (RFC 9110, 9.2.2).
    let isIdempotent: Bool
    let isGET: Bool
    let isPOST: Bool

    /// Parses `bytes`, which end with the first empty line.
    init(_ bytes: ByteBuffer, limits: ProxyLimits) throws(ProxyRefusal) {
        self.bytes = bytes
        let limit = limits.headFieldsLimit
        let parsed = bytes.withUnsafeReadableBytes { raw in
            Result { () throws(ProxyRefusal) in try Parsed(raw, fieldsLimit: limit) }
        }
        let result = try parsed.get()
        (method, target, minorVersion, fields) = (result.method, result.target, result.minorVersion, result.fields)
        (isHEAD, isGET, isPOST) = (result.kind == .head, result.kind == .get, result.kind == .post)
        isIdempotent = result.kind.isIdempotent
    }

    var framing: MessageFraming {
        if fields.isChunked { return .chunked }
        guard let length = fields.contentLength, length > 0 else { return .none }
        return .length(length)
    }

    /// Whether the connection may serve another request after this one.
    var keepsAlive: Bool { minorVersion == 1 && !fields.wantsClose }

    var upgradesToWebSocket: Bool {
        isGET && minorVersion == 1 && fields.wantsUpgrade && fields.namesWebSocket && framing == .none
    }

    var expectsContinue: Bool { fields.expectation != nil && minorVersion == 1 }

    func text(_ range: Range<Int>) -> String {
        bytes.withUnsafeReadableBytes { String(decoding: $0[range], as: UTF8.self) }
    }

    enum MethodKind {
        case get, head, post, otherIdempotent, other

        var isIdempotent: Bool {
            switch self {
            case .get, .head, .otherIdempotent: true
            case .post, .other: false
            }
        }

        /// Methods are case-sensitive; what is unknown is passed on and never sent twice.
        init(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) {
            func matches(_ text: StaticString) -> Bool {
                range.count == text.utf8CodeUnitCount
                    && range.allSatisfy { bytes[$0] == text.utf8Start[$0 - range.lowerBound] }
            }
            if matches("GET") {
                self = .get
            } else if matches("POST") {
                self = .post
            } else if matches("HEAD") {
                self = .head
            } else if matches("PUT") || matches("DELETE") || matches("OPTIONS") {
                self = .otherIdempotent
            } else {
                self = .other
            }
        }
    }

    private struct Parsed {
        var method, target: Range<Int>
        var minorVersion: Int
        var fields: HeaderFields
        var kind: MethodKind

        init(_ bytes: UnsafeRawBufferPointer, fieldsLimit: Int) throws(ProxyRefusal) {
            var position = 0
            while Syntax.isToken(bytes[position]) { position += 1 }
            method = 0..<position
            guard (1...32).contains(position), bytes[position] == Syntax.space else {
                throw .badRequest("the request line does not begin with a method and one space")
            }
            kind = MethodKind(bytes, method)
            let start = position + 1
            position = start
            while Syntax.isTarget(bytes[position]) { position += 1 }
            target = start..<position
            guard bytes[position] == Syntax.space, !target.isEmpty else {
                throw .badRequest("the request target is empty or holds characters that must be percent-encoded")
            }
            guard bytes[start] == UInt8(ascii: "/") else {
                throw .badRequest("the request target must be a path: this is not a forward proxy")
            }
            minorVersion = try Self.version(bytes, at: position + 1)
            fields = try HeaderFields(bytes, from: position + 11, limit: fieldsLimit)
            try checkHost(in: bytes)
        }

        /// `HTTP/1.x` and CRLF.
        private static func version(_ bytes: UnsafeRawBufferPointer, at start: Int) throws(ProxyRefusal) -> Int {
            let expected: StaticString = "HTTP/1."
            guard start + 10 <= bytes.count,
                (0..<7).allSatisfy({ bytes[start + $0] == expected.utf8Start[$0] }),
                bytes[start + 8] == Syntax.carriageReturn, bytes[start + 9] == Syntax.lineFeed
            else { throw ProxyRefusal(505, "BAD_REQUEST", "the request line does not end with HTTP/1.0 or HTTP/1.1") }
            switch bytes[start + 7] {
            case UInt8(ascii: "0"): return 0
            case UInt8(ascii: "1"): return 1
            default: throw ProxyRefusal(505, "BAD_REQUEST", "only HTTP/1.0 and HTTP/1.1 are served")
            }
        }

        private func checkHost(in bytes: UnsafeRawBufferPointer) throws(ProxyRefusal) {
            guard minorVersion == 0 || fields.host != nil else { throw .badRequest("Host is missing") }
            guard minorVersion == 1 || !fields.isChunked else {
                throw .badRequest("Transfer-Encoding is not part of HTTP/1.0")
            }
            guard let host = fields.host else { return }
            let isValid = (1...261).contains(host.count) && host.allSatisfy { Self.isHost(bytes[$0]) }
            guard isValid else { throw .badRequest("Host is empty, too long or holds invalid characters") }
        }

        private static func isHost(_ byte: UInt8) -> Bool {
            switch byte {
            case 48...58, 65...90, 97...122: true  // digits, colon, letters
            case UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "["), UInt8(ascii: "]"): true
            default: false
            }
        }
    }
}
