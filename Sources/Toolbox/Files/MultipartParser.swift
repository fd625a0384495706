import CLinux
package import NIOCore

/// Limits of a multipart body. Its parts' contents have none.
package enum MultipartLimit {
    package static let headerBytes = 16 << 10
    package static let parts = 10_000
    package static let boundaryBytes = 200
}

/// What is wrong with a multipart body.
package struct MultipartError: Error, Sendable, Equatable {
    package var message: String
}

/// Reads `multipart/form-data` piece by piece; whatever the pieces' borders, the events join to the same whole.
///
/// ```
///              first delimiter          CRLF                 empty line
///  preamble ───────────────▶ delimiter ──────▶ headers ───────────────▶ content
///                                │  ▲                                      │ delimiter: .endOfPart
///                             -- │  └──────────────────────────────────────┘
///                                ▼
///                            epilogue: .end
/// ```
package struct MultipartParser: Sendable {
    package enum Event: Sendable, Equatable {
        /// A part begins; the name of its form field, and nothing of its file name, which clients spell in many ways.
        case part(name: String)
        case content(ByteBuffer)
        case endOfPart
        /// The closing delimiter was seen.
        case end
    }

    private enum State { case preamble, delimiter, headers, content, epilogue }

    private var state = State.preamble
    /// CR LF -- boundary. The body is read as if it began with CR LF, so that the first delimiter is like the others.
    private let delimiter: [UInt8]
    private var buffer = ByteBuffer(string: "\r\n")
    private var parts = 0

    package init(boundary: String) {
        delimiter = Array("\r\n--\(boundary)".utf8)
    }

    /// The boundary that a `Content-Type` announces.
    package static func boundary(ofContentType value: String) throws -> String {
        let (kind, parameters) = parseHeaderValue(value)
        guard kind.lowercased() == "multipart/form-data", let boundary = parameters["boundary"], !boundary.isEmpty,
            boundary.utf8.count <= MultipartLimit.boundaryBytes
        else {
            throw MultipartError(message: "the content type '\(value)' is not multipart/form-data with a boundary")
        }
        return boundary
    }

    /// Takes the next piece and answers what it completed.
    package mutating func take(_ piece: ByteBuffer) throws(MultipartError) -> [Event] {
        var events: [Event] = []
        if state == .epilogue { return events }
        buffer.writeImmutableBuffer(piece)
        while try step(&events) {}
        buffer.discardReadBytes()
        return events
    }

    /// - Throws: if the closing delimiter was never seen.
    package func finish() throws(MultipartError) {
        guard state == .epilogue else {
            throw MultipartError(message: "the multipart body ends before its closing boundary")
        }
    }

    /// One transition; false when more bytes are needed.
    private mutating func step(_ events: inout [Event]) throws(MultipartError) -> Bool {
        switch state {
        case .preamble:
            return skipTo(.delimiter, events: nil, into: &events)
        case .content:
            return skipTo(.delimiter, events: .endOfPart, into: &events)
        case .delimiter:
            return try readAfterDelimiter(&events)
        case .headers:
            return try readHeaders(&events)
        case .epilogue:
            buffer.clear()
            return false
        }
    }

    /// Passes on (content) or drops (preamble) everything up to the next delimiter.
    private mutating func skipTo(_ next: State, events end: Event?, into events: inout [Event]) -> Bool {
        let found = offset(of: delimiter)
        let passed = found ?? max(0, buffer.readableBytes - (delimiter.count - 1))
        if passed > 0, let content = buffer.readSlice(length: passed), end != nil { events.append(.content(content)) }
        guard found != nil else { return false }
        buffer.moveReaderIndex(forwardBy: delimiter.count)
        if let end { events.append(end) }
        state = next
        return true
    }

    private mutating func readAfterDelimiter(_ events: inout [Event]) throws(MultipartError) -> Bool {
        guard buffer.readableBytes >= 2 else { return false }
        if buffer.readableBytesView.starts(with: "--".utf8) {
            events.append(.end)
            state = .epilogue
            return true
        }
        guard let end = offset(of: Array("\r\n".utf8)) else { return try waitForMore("the boundary's line") }
        let padding = buffer.readSlice(length: end)?.readableBytesView ?? ByteBufferView()
        guard padding.allSatisfy({ $0 == 0x20 || $0 == 0x09 }) else {
            throw MultipartError(message: "a multipart boundary is followed by something else than a line's end")
        }
        parts += 1
        guard parts <= MultipartLimit.parts else {
            throw MultipartError(message: "the multipart body has more than \(MultipartLimit.parts) parts, the limit")
        }
        // The CR LF stays: it is the empty line if the part has no headers.
        state = .headers
        return true
    }

    private mutating func readHeaders(_ events: inout [Event]) throws(MultipartError) -> Bool {
        guard let end = offset(of: Array("\r\n\r\n".utf8)) else { return try waitForMore("a part's headers") }
        guard end <= MultipartLimit.headerBytes else { return try waitForMore("a part's headers") }
        let block = buffer.readString(length: end) ?? ""
        buffer.moveReaderIndex(forwardBy: 4)
        var name = ""
        for line in block.split(separator: "\r\n") {
            guard let colon = line.firstIndex(of: ":") else {
                throw MultipartError(message: "a part has a header line without a colon")
            }
            guard line[..<colon].lowercased() == "content-disposition" else { continue }
            name = parseHeaderValue(String(line[line.index(after: colon)...])).parameters["name"] ?? ""
        }
        events.append(.part(name: name))
        state = .content
        return true
    }

    private func waitForMore(_ what: String) throws(MultipartError) -> Bool {
        guard buffer.readableBytes <= MultipartLimit.headerBytes else {
            throw MultipartError(message: "\(what) is longer than \(MultipartLimit.headerBytes) bytes, the limit")
        }
        return false
    }

    private func offset(of needle: [UInt8]) -> Int? {
        buffer.readableBytesView.withUnsafeBytes { hay in
            let found = martlet_find(hay.baseAddress, hay.count, needle, needle.count)
            return found < 0 ? nil : found
        }
    }
}

/// `form-data; name="a;b"; filename=x` into the value and its parameters, names in lower case. Inside quotes `\"` and `\\`
/// are escapes.
package func parseHeaderValue(_ text: String) -> (value: String, parameters: [String: String]) {
    var rest = Substring(text)
    let value = readUntilSemicolon(&rest)
    var parameters: [String: String] = [:]
    while !rest.isEmpty {
        let pair = readUntilSemicolon(&rest)
        let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard sides.count == 2 else { continue }
        let name = trim(sides[0]).lowercased()
        if parameters[name] == nil { parameters[name] = unquote(trim(sides[1])) }
    }
    return (value, parameters)
}

private func readUntilSemicolon(_ rest: inout Substring) -> String {
    var quoted = false
    var escaped = false
    var index = rest.startIndex
    while index < rest.endIndex {
        let character = rest[index]
        if escaped {
            escaped = false
        } else if quoted && character == "\\" {
            escaped = true
        } else if character == "\"" {
            quoted.toggle()
        } else if character == ";" && !quoted {
            break
        }
        index = rest.index(after: index)
    }
    let piece = trim(rest[..<index])
    rest = index < rest.endIndex ? rest[rest.index(after: index)...] : ""
    return String(piece)
}

private func unquote(_ text: Substring) -> String {
    guard text.count >= 2, text.hasPrefix("\""), text.hasSuffix("\"") else { return String(text) }
    var result = ""
    var escaped = false
    for character in text.dropFirst().dropLast() {
        if character == "\\" && !escaped {
            escaped = true
        } else {
            result.append(character)
            escaped = false
        }
    }
    return result
}

private func trim(_ text: Substring) -> Substring {
    let blank: (Character) -> Bool = { $0 == " " || $0 == "\t" }
    var text = text.drop(while: blank)
    while let last = text.last, blank(last) { text.removeLast() }
    return text
}
