import NIOCore

/// A piece of output as a log holds it: one byte for the stream, four for the length, the bytes themselves.
struct LogRecord: Sendable {
    static let headBytes = 5

    var stream: LogStream
    var payload: ByteBuffer

    static func write(_ stream: LogStream, _ payload: ByteBuffer, to buffer: inout ByteBuffer) {
        buffer.writeInteger(stream.rawValue)
        buffer.writeInteger(UInt32(payload.readableBytes))
        buffer.writeImmutableBuffer(payload)
    }

    /// Takes the next record; nil at the end and at what is none, since anybody in the sandbox may write to the files.
    static func read(from buffer: inout ByteBuffer) -> LogRecord? {
        guard let (stream, length) = head(of: buffer, at: buffer.readerIndex) else { return nil }
        buffer.moveReaderIndex(forwardBy: headBytes)
        return buffer.readSlice(length: length).map { LogRecord(stream: stream, payload: $0) }
    }

    /// How many of a buffer's bytes are whole records.
    static func wholeBytes(of buffer: ByteBuffer) -> Int {
        var index = buffer.readerIndex
        while let (_, length) = head(of: buffer, at: index) { index += headBytes + length }
        return index - buffer.readerIndex
    }

    /// The head of a record that is there to its end.
    private static func head(of buffer: ByteBuffer, at index: Int) -> (LogStream, length: Int)? {
        guard let tag = buffer.getInteger(at: index, as: UInt8.self), let stream = LogStream(rawValue: tag),
            let length = buffer.getInteger(at: index + 1, as: UInt32.self), length <= UInt32(LogLimit.recordBytes),
            index + headBytes + Int(length) <= buffer.writerIndex
        else { return nil }
        return (stream, Int(length))
    }
}
