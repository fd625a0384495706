package import NIOCore

/// Bytes of output that are kept in memory before a file takes over.
package let spoolMemoryLimitBytes = 1 << 20
/// Most output of one program that is kept; what comes after is read and dropped, and the result says so.
package let outputLimitBytes = 256 << 20

/// What a program wrote: the first part in memory, the rest in a file without a name.
package struct SpooledOutput: Sendable {
    package var memory = ByteBuffer()
    fileprivate var file: OpenFile?
    fileprivate var fileBytes = 0
    /// Set when output was dropped; says why.
    package fileprivate(set) var truncation: String?

    package init() {}

    /// Bytes kept.
    package var count: Int { memory.readableBytes + fileBytes }

    /// Reads it from the start.
    package func pieces() -> Pieces { Pieces(memory: memory, file: file.map { FilePieces($0, count: fileBytes) }) }

    package struct Pieces: Sendable {
        fileprivate var memory: ByteBuffer?
        fileprivate var file: FilePieces?

        /// The next piece, nil at the end.
        package mutating func next() async throws -> ByteBuffer? {
            if let first = memory {
                memory = nil
                return first
            }
            return try await file?.next()
        }
    }

    /// The last bytes, as text.
    package func tail(_ limit: Int) async throws -> String {
        guard let file, fileBytes > 0 else {
            return String(decoding: memory.readableBytesView.suffix(limit), as: UTF8.self)
        }
        let (at, count) = (Int64(max(0, fileBytes - limit)), min(limit, fileBytes))
        let piece = try await onBlockingThread { try file.read(count, at: at) }
        return String(decoding: piece.readableBytesView, as: UTF8.self)
    }
}

/// Takes a program's output as it comes and keeps it within the limits.
package struct OutputSpool {
    package private(set) var output = SpooledOutput()
    private let directory: String
    private let limit: Int

    /// - Parameter directory: where the file is made once memory does not suffice.
    package init(directory: String, limit: Int = outputLimitBytes) {
        self.directory = directory
        self.limit = limit
    }

    package mutating func append(_ piece: ByteBuffer) async {
        guard output.truncation == nil else { return }
        var piece = piece
        let room = limit - output.count
        if piece.readableBytes > room {
            piece = piece.getSlice(at: piece.readerIndex, length: room) ?? ByteBuffer()
            await store(piece)
            output.truncation = output.truncation ?? "output is cut at \(limit) bytes, the limit"
            return
        }
        await store(piece)
    }

    private mutating func store(_ piece: ByteBuffer) async {
        if output.file == nil, output.memory.readableBytes + piece.readableBytes <= spoolMemoryLimitBytes {
            output.memory.writeImmutableBuffer(piece)
            return
        }
        do {
            let (directory, known) = (directory, output.file)
            output.file = try await onBlockingThread {
                let file = try known ?? OpenFile.anonymous(in: directory)
                try file.write(piece.readableBytesView)
                return file
            }
            output.fileBytes += piece.readableBytes
        } catch {
            output.truncation = "output is cut at \(output.count) bytes: \(error)"
        }
    }
}
