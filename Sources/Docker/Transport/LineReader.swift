import AsyncHTTPClient
import NIOCore

/// Cuts a streaming answer into lines of bounded length.
struct LineReader {
    private var chunks: HTTPClientResponse.Body.AsyncIterator
    private var pending = ByteBuffer()
    private let lineBytesLimit: Int

    init(_ body: HTTPClientResponse.Body, lineBytesLimit: Int = 1 << 20) {
        chunks = body.makeAsyncIterator()
        self.lineBytesLimit = lineBytesLimit
    }

    /// The next line without its newline; nil at the end of the stream. Throws when a line exceeds the limit.
    mutating func next() async throws -> ByteBuffer? {
        while true {
            if let line = takeLine() { return line }
            guard pending.readableBytes <= lineBytesLimit else {
                throw DockerError(
                    operation: "read a stream of the engine",
                    kind: .server,
                    message: "a line is longer than \(lineBytesLimit) bytes"
                )
            }
            guard var chunk = try await chunks.next(isolation: #isolation) else { return takeRest() }
            pending.discardReadBytes()
            pending.writeBuffer(&chunk)
        }
    }

    private mutating func takeLine() -> ByteBuffer? {
        guard let end = pending.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        let line = pending.readSlice(length: end - pending.readerIndex)
        pending.moveReaderIndex(forwardBy: 1)
        return line
    }

    private mutating func takeRest() -> ByteBuffer? {
        pending.readableBytes > 0 ? pending.readSlice(length: pending.readableBytes) : nil
    }
}
