import NIOCore

/// Follows a body through the bytes that arrive, to know where it ends. Holds no bytes.
///
///     size ─▶ sizeEnd ─▶ data ─▶ dataCR ─▶ dataLF ─▶ size …
///               │ (0)
///               └─▶ trailerStart ─▶ trailer ─▶ trailerLF ─▶ trailerStart … ─▶ finalLF ─▶ complete
///
/// Chunk sizes are 1 to 15 hexadecimal digits and CRLF. Extensions must be plain visible text; a bare CR or LF
/// anywhere in the framing is an error, so no other parser can see another end than this one.
struct BodyScanner {
    private enum State: Equatable {
        case complete
        case length(Int)
        case untilClose
        case size(digits: Int)
        case extensionName(isEmpty: Bool), extensionValue(isEmpty: Bool)
        case sizeEnd
        case data(Int)
        case dataCR, dataLF
        case trailerStart, trailer, trailerLF, finalLF
    }

    static let extensionBytesLimit = 256
    static let trailerBytesLimit = 8 * 1024

    private var state: State
    private var size = 0
    private var overhead = 0
    private let allowsTrailers: Bool

    init(_ framing: MessageFraming, allowsTrailers: Bool) {
        self.allowsTrailers = allowsTrailers
        state =
            switch framing {
            case .none: .complete
            case .length(let length): .length(length)
            case .chunked: .size(digits: 0)
            case .untilClose: .untilClose
            }
    }

    var isComplete: Bool { state == .complete }

    /// Whether the end of the connection is the end of this body, or cuts it.
    var endsWithConnection: Bool { state == .untilClose || state == .complete }

    /// Takes as much of `bytes` as belongs to the body and tells how much that was; `visit` gets the places of data.
    mutating func scan(
        _ bytes: UnsafeRawBufferPointer,
        visit: (Range<Int>) -> Void
    ) throws(ProxyRefusal) -> Int {
        var position = 0
        while position < bytes.count, state != .complete {
            switch state {
            case .complete: break
            case .untilClose:
                visit(position..<bytes.count)
                position = bytes.count
            case .length(let rest):
                let count = min(rest, bytes.count - position)
                visit(position..<(position + count))
                position += count
                state = rest == count ? .complete : .length(rest - count)
            case .data(let rest):
                let count = min(rest, bytes.count - position)
                visit(position..<(position + count))
                position += count
                state = rest == count ? .dataCR : .data(rest - count)
            default:
                try step(bytes[position])
                position += 1
            }
        }
        return position
    }

    /// One byte of chunked framing.
    private mutating func step(_ byte: UInt8) throws(ProxyRefusal) {
        switch state {
        case .size(let digits): try stepSize(byte, digits: digits)
        case .extensionName(let isEmpty): try stepExtension(byte, isValue: false, isEmpty: isEmpty)
        case .extensionValue(let isEmpty): try stepExtension(byte, isValue: true, isEmpty: isEmpty)
        case .sizeEnd:
            try expect(byte, Syntax.lineFeed)
            state = size == 0 ? .trailerStart : .data(size)
            (size, overhead) = (0, 0)
        case .dataCR:
            try expect(byte, Syntax.carriageReturn)
            state = .dataLF
        case .dataLF:
            try expect(byte, Syntax.lineFeed)
            state = .size(digits: 0)
        case .trailerStart: try stepTrailerStart(byte)
        case .trailer: try stepTrailer(byte)
        case .trailerLF:
            try expect(byte, Syntax.lineFeed)
            state = .trailerStart
        case .finalLF:
            try expect(byte, Syntax.lineFeed)
            state = .complete
        case .complete, .length, .untilClose, .data: break
        }
    }

    private mutating func stepSize(_ byte: UInt8, digits: Int) throws(ProxyRefusal) {
        if let value = Syntax.hexadecimalValue(byte) {
            guard digits < 15 else { throw .badRequest("a chunk size has more than 15 digits") }
            size = size << 4 | Int(value)
            state = .size(digits: digits + 1)
        } else if digits > 0, byte == Syntax.carriageReturn {
            state = .sizeEnd
        } else if digits > 0, byte == UInt8(ascii: ";") {
            state = .extensionName(isEmpty: true)
        } else {
            throw .badRequest("a chunk size is not hexadecimal digits followed by CRLF")
        }
    }

    /// `;name` or `;name=value`, of tokens (RFC 9112, 7.1.1). Quoted values, which nobody sends, are read differently by
    /// different servers.
    private mutating func stepExtension(_ byte: UInt8, isValue: Bool, isEmpty: Bool) throws(ProxyRefusal) {
        overhead += 1
        guard overhead <= Self.extensionBytesLimit else {
            throw .badRequest("a chunk extension exceeds \(Self.extensionBytesLimit) bytes")
        }
        switch byte {
        case _ where Syntax.isToken(byte):
            state = isValue ? .extensionValue(isEmpty: false) : .extensionName(isEmpty: false)
        case UInt8(ascii: "=") where !isValue && !isEmpty: state = .extensionValue(isEmpty: true)
        case UInt8(ascii: ";") where !isEmpty: state = .extensionName(isEmpty: true)
        case Syntax.carriageReturn where !isEmpty: state = .sizeEnd
        default: throw .badRequest("a chunk extension is not of the form ';name=value' with tokens")
        }
    }

    private mutating func stepTrailerStart(_ byte: UInt8) throws(ProxyRefusal) {
        if byte == Syntax.carriageReturn {
            state = .finalLF
            return
        }
        guard allowsTrailers else { throw ProxyRefusal(501, "NOT_IMPLEMENTED", "trailer fields are not forwarded") }
        guard Syntax.isToken(byte) else { throw .badRequest("a trailer field has no valid name") }
        state = .trailer
    }

    private mutating func stepTrailer(_ byte: UInt8) throws(ProxyRefusal) {
        if byte == Syntax.carriageReturn {
            state = .trailerLF
            return
        }
        overhead += 1
        guard Syntax.isFieldValue(byte), overhead <= Self.trailerBytesLimit else {
            throw .badRequest("a trailer holds control characters or exceeds \(Self.trailerBytesLimit) bytes")
        }
    }

    private func expect(_ byte: UInt8, _ wanted: UInt8) throws(ProxyRefusal) {
        guard byte == wanted else { throw .badRequest("chunked framing is broken: a line does not end with CRLF") }
    }
}
