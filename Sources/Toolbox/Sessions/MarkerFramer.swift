import NIOCore

/// Puts records on the wire as the SDK reads them: three equal bytes say to which stream the following bytes belong, and the
/// reader takes the first three such bytes that it sees for a marker, whoever wrote them. A program that prints a marker
/// must not mislabel what it prints later, so the true one is repeated after it.
struct MarkerFramer: Sendable {
    /// What the reader takes the next byte for; nil before the first marker.
    private var current: LogStream?
    /// How many equal marker bytes the reader saw last, and which.
    private var run: (byte: UInt8, count: Int) = (0, 0)

    /// The marker that begins a connection, so that nothing is dropped by the reader.
    mutating func begin() -> ByteBuffer {
        var frame = ByteBuffer()
        mark(.standardOutput, in: &frame)
        return frame
    }

    /// The bytes of a piece of a log.
    /// - Parameter gapNote: said where something was forgotten.
    mutating func frame(_ piece: LogPiece, gapNote: String) -> ByteBuffer {
        var records = piece.records
        var frame = ByteBuffer()
        frame.reserveCapacity(records.readableBytes)
        if piece.followsGap { add(ByteBuffer(string: gapNote), to: .standardError, in: &frame) }
        while let record = LogRecord.read(from: &records) { add(record.payload, to: record.stream, in: &frame) }
        return frame
    }

    private mutating func add(_ payload: ByteBuffer, to stream: LogStream, in frame: inout ByteBuffer) {
        if current != stream { mark(stream, in: &frame) }
        payload.withUnsafeReadableBytes { raw in
            var written = 0
            for index in raw.indices where advance(raw[index]) {
                frame.writeBytes(UnsafeRawBufferPointer(rebasing: raw[written...index]))
                written = index + 1
                if raw[index] != stream.rawValue { mark(stream, in: &frame) }
            }
            frame.writeBytes(UnsafeRawBufferPointer(rebasing: raw[written...]))
        }
    }

    /// Follows what the reader sees; true if with this byte it sees a marker.
    private mutating func advance(_ byte: UInt8) -> Bool {
        guard byte == 1 || byte == 2 else {
            run.count = 0
            return false
        }
        run = (byte, run.byte == byte ? run.count + 1 : 1)
        guard run.count == 3 else { return false }
        run.count = 0
        return true
    }

    private mutating func mark(_ stream: LogStream, in frame: inout ByteBuffer) {
        for _ in 0..<3 {
            frame.writeInteger(stream.rawValue)
            _ = advance(stream.rawValue)
        }
        current = stream
    }
}
