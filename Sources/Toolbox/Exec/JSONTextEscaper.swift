package import NIOCore

/// Turns bytes of a program's output into the inside of a JSON string, piece by piece. Bytes that are no UTF-8 become
/// U+FFFD, one for each maximal invalid run, exactly as `String(decoding:as:)` does; a character may be split between pieces.
package struct JSONTextEscaper: Sendable {
    /// The valid beginning of a character whose rest is still to come.
    private var pending: [UInt8] = []
    private var missing = 0
    /// What the next byte of the pending character may be.
    private var allowed: ClosedRange<UInt8> = 0x80...0xBF

    package init() {}

    /// Appends the escaped form of `bytes` to `output`.
    package mutating func escape(_ bytes: ByteBufferView, into output: inout ByteBuffer) {
        bytes.withUnsafeBytes { raw in
            var index = 0
            while index < raw.count {
                if missing == 0 {
                    let plain = plainRun(raw, from: index)
                    if plain > index {
                        output.writeBytes(UnsafeRawBufferPointer(rebasing: raw[index..<plain]))
                        index = plain
                        continue
                    }
                }
                take(raw[index], into: &output)
                index += 1
            }
        }
    }

    /// Ends the text: a character that was cut off is replaced.
    package mutating func finish(into output: inout ByteBuffer) {
        if missing > 0 { replacePending(into: &output) }
    }

    private func plainRun(_ raw: UnsafeRawBufferPointer, from start: Int) -> Int {
        var end = start
        while end < raw.count {
            let byte = raw[end]
            if byte < 0x20 || byte >= 0x80 || byte == 0x22 || byte == 0x5C { break }
            end += 1
        }
        return end
    }

    private mutating func take(_ byte: UInt8, into output: inout ByteBuffer) {
        if missing > 0 {
            if allowed.contains(byte) {
                pending.append(byte)
                missing -= 1
                allowed = 0x80...0xBF
                if missing == 0 {
                    output.writeBytes(pending)
                    pending.removeAll(keepingCapacity: true)
                }
                return
            }
            replacePending(into: &output)
        }
        begin(byte, into: &output)
    }

    private mutating func begin(_ byte: UInt8, into output: inout ByteBuffer) {
        switch byte {
        case 0..<0x80: escapeASCII(byte, into: &output)
        case 0xC2...0xDF: expect(1, 0x80...0xBF, after: byte)
        case 0xE0: expect(2, 0xA0...0xBF, after: byte)
        case 0xED: expect(2, 0x80...0x9F, after: byte)
        case 0xE1...0xEF: expect(2, 0x80...0xBF, after: byte)
        case 0xF0: expect(3, 0x90...0xBF, after: byte)
        case 0xF1...0xF3: expect(3, 0x80...0xBF, after: byte)
        case 0xF4: expect(3, 0x80...0x8F, after: byte)
        default: output.writeStaticString("\u{FFFD}")
        }
    }

    private mutating func expect(_ count: Int, _ next: ClosedRange<UInt8>, after byte: UInt8) {
        pending.append(byte)
        missing = count
        allowed = next
    }

    private mutating func replacePending(into output: inout ByteBuffer) {
        pending.removeAll(keepingCapacity: true)
        missing = 0
        output.writeStaticString("\u{FFFD}")
    }

    private func escapeASCII(_ byte: UInt8, into output: inout ByteBuffer) {
        switch byte {
        case 0x22: output.writeStaticString("\\\"")
        case 0x5C: output.writeStaticString("\\\\")
        case 0x0A: output.writeStaticString("\\n")
        case 0x0D: output.writeStaticString("\\r")
        case 0x09: output.writeStaticString("\\t")
        case 0..<0x20:
            let digits = Array("0123456789abcdef".utf8)
            output.writeStaticString("\\u00")
            output.writeInteger(digits[Int(byte >> 4)])
            output.writeInteger(digits[Int(byte & 15)])
        default: output.writeInteger(byte)
        }
    }
}
