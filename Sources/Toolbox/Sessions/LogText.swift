import HTTPTypes
import Hummingbird
import NIOCore

/// A log as JSON: an object with `output` (both streams in order of arrival), `stdout` and `stderr`, made piece by piece.
struct LogText: Sendable {
    private enum Part: CaseIterable {
        case output, standardOutput, standardError

        var name: String {
            switch self {
            case .output: "output"
            case .standardOutput: "stdout"
            case .standardError: "stderr"
            }
        }

        func includes(_ stream: LogStream) -> Bool {
            switch self {
            case .output: true
            case .standardOutput: stream == .standardOutput
            case .standardError: stream == .standardError
            }
        }
    }

    /// Made in one buffer up to this size, else streamed.
    private static let bufferedBytes = 1 << 20

    private let log: OutputLog
    private let end: Int
    private var text: ByteBuffer
    private var parts = Part.allCases[...]
    private var cursor: LogCursor?
    /// Each stream's own, since a character may be split by output of the other.
    private var escapers: [LogStream: JSONTextEscaper] = [:]

    /// - Parameter fields: what the object begins with, as JSON without its braces; may be empty.
    init(_ log: OutputLog, fields: String = "") {
        self.log = log
        end = log.end
        text = ByteBuffer(string: fields.isEmpty ? "{" : "{\(fields),")
    }

    /// The whole answer.
    func response() async -> Response {
        Response(status: .ok, headers: [.contentType: "application/json"], body: await body())
    }

    private func body() async -> ResponseBody {
        var copy = self
        if end <= Self.bufferedBytes {
            var whole = ByteBuffer()
            while let piece = await copy.next() { whole.writeImmutableBuffer(piece) }
            return ResponseBody(byteBuffer: whole)
        }
        return ResponseBody { [self] writer in
            var copy = self
            while let piece = await copy.next() { try await writer.write(piece) }
            try await writer.finish(nil)
        }
    }

    /// The next piece of the text, nil at its end.
    private mutating func next() async -> ByteBuffer? {
        guard let part = parts.first else { return nil }
        if cursor == nil {
            text.writeString("\"\(part.name)\":\"")
            cursor = LogCursor(log, upTo: end)
        }
        if let piece = await cursor?.next() {
            escape(piece, as: part)
        } else {
            finish()
        }
        defer { text = ByteBuffer() }
        return text
    }

    private mutating func escape(_ piece: LogPiece, as part: Part) {
        var records = piece.records
        text.reserveCapacity(records.readableBytes + records.readableBytes / 16)
        if piece.followsGap, part.includes(.standardError) { note(log.gapNote) }
        while let record = LogRecord.read(from: &records) {
            guard part.includes(record.stream) else { continue }
            escapers[record.stream, default: JSONTextEscaper()].escape(record.payload.readableBytesView, into: &text)
        }
    }

    private mutating func note(_ words: String) {
        var escaper = JSONTextEscaper()
        escaper.escape(ByteBuffer(string: words).readableBytesView, into: &text)
    }

    private mutating func finish() {
        for stream in LogStream.allCases { escapers[stream]?.finish(into: &text) }
        escapers = [:]
        cursor = nil
        parts.removeFirst()
        text.writeString(parts.isEmpty ? "\"}" : "\",")
    }
}
