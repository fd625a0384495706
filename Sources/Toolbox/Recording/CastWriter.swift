import FoundationEssentials
package import NIOCore

/// The first line of an asciicast v2 file.
package struct CastHeader: Codable, Sendable, Equatable {
    /// Ours; players pass over what they do not know.
    package struct Origin: Codable, Sendable, Equatable {
        package var kind: RecordingKind
        /// Id of the terminal, or the path of its device.
        package var terminal: String
    }

    package var version = 2
    package var width: Int
    package var height: Int
    /// Seconds since 1970, with a fraction.
    package var timestamp: Double
    package var title: String
    package var env: [String: String]
    package var martlet: Origin

    /// Seconds that a date or a length may have, so that no forged one is beyond what a date can be.
    static let times = 0.0...4e9

    /// Whether it may be ours; anybody in the sandbox can have written it.
    var isPlausible: Bool {
        version == 2 && (1...Int(UInt16.max)).contains(width) && (1...Int(UInt16.max)).contains(height)
            && Self.times.contains(timestamp)
    }

    var line: ByteBuffer {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        // Strings and finite numbers always encode.
        var line = ByteBuffer(bytes: (try? encoder.encode(self)) ?? Data())
        line.writeStaticString("\n")
        return line
    }
}

/// Turns a terminal's output into the events of an asciicast v2 file. Each is one whole line, whatever was cut where: a
/// character's beginning waits for its rest, and bytes that are no UTF-8 are replaced as `JSONTextEscaper` says.
package struct CastWriter: Sendable {
    private var text = JSONTextEscaper()

    package init() {}

    /// Appends the events of a piece of output; none if all of it is a character's beginning.
    package mutating func output(_ bytes: ByteBufferView, at time: Duration, into lines: inout ByteBuffer) {
        var rest = bytes
        while !rest.isEmpty {
            let piece = rest.prefix(RecordingLimits.pieceBytes)
            event("o", at: time, into: &lines) { text, lines in text.escape(piece, into: &lines) }
            rest = rest.dropFirst(piece.count)
        }
    }

    /// Appends a change of the terminal's size.
    package mutating func resize(_ size: TerminalSize, at time: Duration, into lines: inout ByteBuffer) {
        Self.event("r", "\(size.columns)x\(size.rows)", at: time, into: &lines)
    }

    /// Appends a remark. A character that was begun is cut off before it.
    package mutating func mark(_ remark: String, at time: Duration, into lines: inout ByteBuffer) {
        event("o", at: time, into: &lines) { text, lines in text.finish(into: &lines) }
        Self.event("m", remark.cut(to: RecordingLimits.textBytes), at: time, into: &lines)
    }

    private mutating func event(
        _ code: StaticString,
        at time: Duration,
        into lines: inout ByteBuffer,
        _ write: (inout JSONTextEscaper, inout ByteBuffer) -> Void
    ) {
        let start = lines.writerIndex
        lines.writeString("[\(time.decimalSeconds), \"")
        lines.writeStaticString(code)
        lines.writeStaticString("\", \"")
        let empty = lines.writerIndex
        write(&text, &lines)
        guard lines.writerIndex > empty else { return lines.moveWriterIndex(to: start) }
        lines.writeStaticString("\"]\n")
    }

    private static func event(
        _ code: StaticString,
        _ content: String,
        at time: Duration,
        into lines: inout ByteBuffer
    ) {
        var writer = CastWriter()
        writer.event(code, at: time, into: &lines) { text, lines in
            text.escape(ByteBuffer(string: content).readableBytesView, into: &lines)
        }
    }
}

/// One line of an asciicast file after its first.
struct CastEvent: Decodable, Equatable {
    var seconds: Double
    var code: String
    var content: String

    init(from decoder: any Decoder) throws {
        var values = try decoder.unkeyedContainer()
        seconds = try values.decode(Double.self)
        code = try values.decode(String.self)
        content = try values.decode(String.self)
    }
}

extension Duration {
    /// With six decimals, as JSON has numbers.
    fileprivate var decimalSeconds: String {
        let (seconds, attoseconds) = components
        let micros = String(attoseconds / 1_000_000_000_000)
        return "\(seconds).\(String(repeating: "0", count: 6 - micros.count))\(micros)"
    }
}

extension String {
    /// At most so many bytes, cut between characters.
    func cut(to limit: Int) -> String {
        var text = self
        while text.utf8.count > limit { text.removeLast() }
        return text
    }
}
