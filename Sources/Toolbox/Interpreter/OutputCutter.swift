import CLinux
import NIOCore

/// Finds where the output of an execution ends in one of the worker's streams: the worker writes a mark there that was made
/// for this execution. Between executions, everything belongs to none.
struct OutputCutter {
    struct Cut: Equatable {
        /// Belongs to the execution.
        var output = ByteBuffer()
        /// The mark was in this piece.
        var ended = false
        /// Belongs to no execution.
        var rest = ByteBuffer()
    }

    private var mark: [UInt8] = []
    /// What may be the beginning of the mark.
    private var held = ByteBuffer()

    /// Begins an execution whose output ends with `mark`.
    mutating func begin(_ mark: [UInt8]) {
        self.mark = mark
        held.clear()
    }

    mutating func cut(_ piece: ByteBuffer) -> Cut {
        guard !mark.isEmpty else { return Cut(rest: piece) }
        var all = piece
        if held.readableBytes > 0 {
            all = held
            all.writeImmutableBuffer(piece)
            held.clear()
        }
        if let at = find(in: all) {
            let output = all.readSlice(length: at) ?? ByteBuffer()
            all.moveReaderIndex(forwardBy: mark.count)
            mark = []
            return Cut(output: output, ended: true, rest: all)
        }
        let count = beginningOfMark(atEndOf: all)
        let output = all.readSlice(length: all.readableBytes - count) ?? ByteBuffer()
        held = all
        return Cut(output: output)
    }

    /// What is held when the stream ends within the execution.
    mutating func finish() -> ByteBuffer {
        defer { held.clear() }
        mark = []
        return held
    }

    private func find(in bytes: ByteBuffer) -> Int? {
        let offset = bytes.withUnsafeReadableBytes { hay in
            martlet_find(hay.baseAddress, hay.count, mark, mark.count)
        }
        return offset < 0 ? nil : offset
    }

    /// How many of the last bytes the mark begins with.
    private func beginningOfMark(atEndOf bytes: ByteBuffer) -> Int {
        let tail = bytes.readableBytesView.suffix(mark.count - 1)
        var start = tail.startIndex
        while start < tail.endIndex {
            if mark.starts(with: tail[start...]) { return tail.endIndex - start }
            start += 1
        }
        return 0
    }
}
