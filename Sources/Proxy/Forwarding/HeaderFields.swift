import NIOCore

/// The fields that the proxy itself reads, replaces or removes; all others pass.
enum FieldKind: UInt8 {
    case other
    case host, contentLength, transferEncoding, connection, upgrade, expect, authorization
    /// Meant for this hop only: `Keep-Alive`, `TE`, `Trailer`, `Proxy-…`.
    case hopByHop
    /// `Forwarded`, `X-Forwarded-…`, `X-Real-IP`: only the proxy says these.
    case forwarded
    /// `X-Martlet-…` and the preview token: never from outside, never to a sandbox.
    case ours
    case requestID
    case skipActivity

    /// By the name's length first: most names are settled by one comparison.
    static func of(_ bytes: UnsafeRawBufferPointer, _ name: Range<Int>) -> FieldKind {
        switch name.count {
        case 2: if Syntax.equals(bytes, name, "te") { return .hopByHop }
        case 4: if Syntax.equals(bytes, name, "host") { return .host }
        case 6: if Syntax.equals(bytes, name, "expect") { return .expect }
        case 7:
            if Syntax.equals(bytes, name, "upgrade") { return .upgrade }
            if Syntax.equals(bytes, name, "trailer") { return .hopByHop }
        case 9:
            if Syntax.equals(bytes, name, "forwarded") { return .forwarded }
            if Syntax.equals(bytes, name, "x-real-ip") { return .forwarded }
        case 10:
            if Syntax.equals(bytes, name, "connection") { return .connection }
            if Syntax.equals(bytes, name, "keep-alive") { return .hopByHop }
        case 12: if Syntax.equals(bytes, name, "x-request-id") { return .requestID }
        case 13: if Syntax.equals(bytes, name, "authorization") { return .authorization }
        case 14: if Syntax.equals(bytes, name, "content-length") { return .contentLength }
        case 17: if Syntax.equals(bytes, name, "transfer-encoding") { return .transferEncoding }
        case 23: if Syntax.equals(bytes, name, "x-daytona-preview-token") { return .ours }
        case 35: if Syntax.equals(bytes, name, "x-daytona-skip-last-activity-update") { return .skipActivity }
        default: break
        }
        return ofPrefix(bytes, name)
    }

    private static func ofPrefix(_ bytes: UnsafeRawBufferPointer, _ name: Range<Int>) -> FieldKind {
        switch Syntax.lowered(bytes[name.lowerBound]) {
        case UInt8(ascii: "x"):
            if Syntax.hasPrefix(bytes, name, "x-forwarded-") { return .forwarded }
            if Syntax.hasPrefix(bytes, name, "x-martlet-") { return .ours }
        case UInt8(ascii: "p"):
            if Syntax.hasPrefix(bytes, name, "proxy-") { return .hopByHop }
        default: break
        }
        return .other
    }
}

/// One field by its places in the head: nothing is copied until the head is written anew.
struct HeaderField {
    var kind: FieldKind
    /// Whether a Connection field names it as meant for this hop only.
    var isNominated = false
    var name: Range<Int>
    /// Without surrounding white space.
    var value: Range<Int>
    /// With its CRLF.
    var line: Range<Int>
}

/// Where a message's body ends.
enum MessageFraming: Equatable {
    case none
    case length(Int)
    case chunked
    case untilClose
}

/// The fields of one head, strictly parsed, and what they say together.
struct HeaderFields {
    var list: [HeaderField] = []
    var host: Range<Int>?
    var authorization: Range<Int>?
    var contentLength: Int?
    var isChunked = false
    var wantsClose = false
    var wantsUpgrade = false
    var namesWebSocket = false
    var expectation: Range<Int>?
    var hasRequestID = false
    var skipsActivity = false

    /// Parses `bytes[start...]`, field lines up to and with the empty line at the very end.
    ///
    /// Throws a ``ProxyRefusal`` (as of a request; for a response the caller words it anew) for anything that two
    /// parsers could read differently: white space before the colon, folded lines, bare CR or LF, control characters,
    /// Content-Length twice or beside Transfer-Encoding, any coding but `chunked`.
    init(_ bytes: UnsafeRawBufferPointer, from start: Int, limit: Int) throws(ProxyRefusal) {
        list.reserveCapacity(16)
        var position = start
        var nominations: [Range<Int>] = []
        while bytes[position] != Syntax.carriageReturn {
            guard list.count < limit else {
                throw ProxyRefusal(431, "BAD_REQUEST", "the head has more than \(limit) header fields; send fewer")
            }
            let field = try Self.field(bytes, at: position)
            try note(field, in: bytes, nominations: &nominations)
            list.append(field)
            position = field.line.upperBound
        }
        guard position + 2 == bytes.count, bytes[position + 1] == Syntax.lineFeed else {
            throw .badRequest("a bare carriage return in the head")
        }
        guard contentLength == nil || !isChunked else {
            throw .badRequest("Content-Length beside Transfer-Encoding; send one of them")
        }
        nominate(nominations, in: bytes)
    }

    private static func field(_ bytes: UnsafeRawBufferPointer, at start: Int) throws(ProxyRefusal) -> HeaderField {
        var colon = start
        while Syntax.isToken(bytes[colon]) { colon += 1 }
        guard colon > start, bytes[colon] == Syntax.colon else {
            throw .badRequest("a header field has no valid name, or is folded; send each on one line as name: value")
        }
        var end = colon + 1
        while Syntax.isFieldValue(bytes[end]) { end += 1 }
        guard bytes[end] == Syntax.carriageReturn, end + 1 < bytes.count, bytes[end + 1] == Syntax.lineFeed else {
            throw .badRequest("a header value holds a control character")
        }
        let name = start..<colon
        return HeaderField(
            kind: FieldKind.of(bytes, name),
            name: name,
            value: Syntax.trimmed(bytes, (colon + 1)..<end),
            line: start..<(end + 2)
        )
    }

    private mutating func note(
        _ field: HeaderField,
        in bytes: UnsafeRawBufferPointer,
        nominations: inout [Range<Int>]
    ) throws(ProxyRefusal) {
        if field.kind == .contentLength || field.kind == .transferEncoding, bytes[field.line].contains(Syntax.tab) {
            throw .badRequest("a tab in a field that frames the body")
        }
        switch field.kind {
        case .host:
            guard host == nil else { throw .badRequest("Host is given twice") }
            host = field.value
        case .contentLength:
            guard contentLength == nil else { throw .badRequest("Content-Length is given twice") }
            guard let length = Syntax.decimal(bytes, field.value) else {
                throw .badRequest("Content-Length is not a number of at most 15 digits")
            }
            contentLength = length
        case .transferEncoding:
            guard !isChunked, Syntax.equals(bytes, field.value, "chunked") else {
                throw ProxyRefusal(501, "NOT_IMPLEMENTED", "Transfer-Encoding may only be 'chunked', and only once")
            }
            isChunked = true
        case .connection:
            Syntax.members(bytes, field.value) { noteConnectionOption($0, in: bytes, nominations: &nominations) }
        case .upgrade:
            if Syntax.equals(bytes, field.value, "websocket") { namesWebSocket = true }
        case .expect:
            expectation = field.value
        case .authorization:
            guard authorization == nil else { throw .badRequest("Authorization is given twice") }
            authorization = field.value
        case .requestID: hasRequestID = true
        case .skipActivity: skipsActivity = Syntax.equals(bytes, field.value, "true")
        case .other, .hopByHop, .forwarded, .ours: break
        }
    }

    private mutating func noteConnectionOption(
        _ option: Range<Int>,
        in bytes: UnsafeRawBufferPointer,
        nominations: inout [Range<Int>]
    ) {
        if Syntax.equals(bytes, option, "close") {
            wantsClose = true
        } else if Syntax.equals(bytes, option, "upgrade") {
            wantsUpgrade = true
        } else if !Syntax.equals(bytes, option, "keep-alive") {
            nominations.append(option)
        }
    }

    /// Only fields that nobody here reads can be taken away by naming them: framing and credentials cannot.
    private mutating func nominate(_ nominations: [Range<Int>], in bytes: UnsafeRawBufferPointer) {
        guard !nominations.isEmpty else { return }
        for index in list.indices where list[index].kind == .other {
            let name = list[index].name
            list[index].isNominated = nominations.contains { option in
                option.count == name.count
                    && zip(option, name).allSatisfy { Syntax.lowered(bytes[$0]) == Syntax.lowered(bytes[$1]) }
            }
        }
    }
}
