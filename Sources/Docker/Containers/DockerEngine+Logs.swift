package import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1
import Synchronization

/// What to read of a container's output.
package struct LogRequest: Sendable, Hashable {
    /// Only that many of the last lines; nil for all that is kept.
    package var tailLines: Int?
    /// Whether to stay and stream what is written later.
    package var follows: Bool
    package var since: EngineTime?

    package init(tailLines: Int? = nil, follows: Bool = false, since: EngineTime? = nil) {
        self.tailLines = tailLines
        self.follows = follows
        self.since = since
    }
}

/// A piece of output, as it was written; a line may be cut in pieces.
package struct LogPiece: Sendable, Hashable {
    /// Which of the two outputs.
    package enum Stream: UInt8, Sendable, Hashable {
        case standardOutput = 1
        case standardError = 2
    }

    package let stream: Stream
    package let bytes: ByteBuffer
}

/// The end of a container's output.
package struct LogTail: Sendable, Hashable {
    package internal(set) var standardOutput = ByteBuffer()
    package internal(set) var standardError = ByteBuffer()
    /// Whether the limit left something out.
    package internal(set) var isTruncated = false
}

extension DockerEngine {
    /// Streams a container's output to `onPiece`, with back-pressure, until it ends; `limit` covers all of it.
    package func logs(
        _ id: String,
        _ request: LogRequest = LogRequest(),
        within limit: Duration? = nil,
        onPiece: @escaping @Sendable (LogPiece) async throws -> Void
    ) async throws {
        let query = [
            ("stdout", "true"), ("stderr", "true"), ("follow", String(request.follows)),
            ("tail", request.tailLines.map { String($0) } ?? "all"), ("since", request.since?.parameter ?? "0"),
        ]
        let call = try EngineCall("read the output of container \(id)", .GET, ["containers", id, "logs"], query: query)
        let frames = Mutex(LogFrames())
        try await forEachChunk(call, within: limit ?? limits.transfer) { chunk in
            let pieces = try frames.withLock { try $0.feed(chunk) }
            for piece in pieces { try await onPiece(piece) }
        }
    }

    /// The last `lines` of a container's output, at most `limitBytes` of each stream.
    package func logTail(_ id: String, lines: Int = 100, limitBytes: Int = 64 << 10) async throws -> LogTail {
        let tail = Mutex(LogTail())
        try await logs(id, LogRequest(tailLines: lines), within: limits.call) { piece in
            tail.withLock { $0.append(piece, limitBytes: limitBytes) }
        }
        return tail.withLock { $0 }
    }
}

extension LogTail {
    /// Keeps the newest bytes: what is oldest goes when there is too much.
    mutating func append(_ piece: LogPiece, limitBytes: Int) {
        switch piece.stream {
        case .standardOutput: append(piece.bytes, to: \.standardOutput, limitBytes: limitBytes)
        case .standardError: append(piece.bytes, to: \.standardError, limitBytes: limitBytes)
        }
    }

    private mutating func append(_ bytes: ByteBuffer, to end: WritableKeyPath<LogTail, ByteBuffer>, limitBytes: Int) {
        self[keyPath: end].writeImmutableBuffer(bytes)
        let excess = self[keyPath: end].readableBytes - limitBytes
        guard excess > 0 else { return }
        self[keyPath: end].moveReaderIndex(forwardBy: excess)
        self[keyPath: end].discardReadBytes()
        isTruncated = true
    }
}

/// Takes apart the engine's multiplexed output: frames of `[stream, 0, 0, 0, length × 4]` and payload.
///
/// A frame's payload is passed on as it arrives, so no frame is ever held whole.
struct LogFrames {
    private enum State {
        case header(ByteBuffer)
        case payload(LogPiece.Stream, remaining: Int)
    }

    private var state = State.header(ByteBuffer())
    private static let headerBytes = 8

    /// Takes the next chunk and returns the pieces it completes. Throws on a header that is none.
    mutating func feed(_ chunk: ByteBuffer) throws -> [LogPiece] {
        var chunk = chunk
        var pieces: [LogPiece] = []
        while chunk.readableBytes > 0 {
            switch state {
            case .header(let partial):
                state = try Self.readHeader(partial, &chunk)
            case .payload(let stream, let remaining):
                let length = min(remaining, chunk.readableBytes)
                if let bytes = chunk.readSlice(length: length) { pieces.append(LogPiece(stream: stream, bytes: bytes)) }
                state = length == remaining ? .header(ByteBuffer()) : .payload(stream, remaining: remaining - length)
            }
        }
        return pieces
    }

    private static func readHeader(_ partial: ByteBuffer, _ chunk: inout ByteBuffer) throws -> State {
        var header = partial
        if var bytes = chunk.readSlice(length: min(headerBytes - header.readableBytes, chunk.readableBytes)) {
            header.writeBuffer(&bytes)
        }
        guard header.readableBytes == headerBytes else { return .header(header) }
        guard let (kind, _, _, _, length) = header.readMultipleIntegers(as: (UInt8, UInt8, UInt8, UInt8, UInt32).self),
            let stream = LogPiece.Stream(rawValue: kind)
        else {
            throw DockerError(
                operation: "read a container's output",
                kind: .server,
                message: "the stream is not multiplexed; the container has a terminal"
            )
        }
        return length == 0 ? .header(ByteBuffer()) : .payload(stream, remaining: Int(length))
    }
}
