package import NIOCore

/// The newest output of a program. Positions count from its first byte, so that each reader can keep its own.
package struct OutputHistory: Sendable {
    private var pieces: [ByteBuffer] = []
    private let limit: Int
    /// Position of the oldest byte that is kept.
    package private(set) var start = 0
    /// Position after the newest byte.
    package private(set) var end = 0

    /// Small pieces are joined up to this, so that a program that writes a byte at a time does not cost a buffer for each.
    private static let joinedBytes = 8 << 10

    package init(limit: Int) {
        self.limit = limit
    }

    /// Where the oldest byte would be after `count` more bytes.
    package func start(afterAdding count: Int) -> Int { max(start, end + count - limit) }

    /// Adds output and forgets the oldest beyond the limit.
    package mutating func append(_ piece: ByteBuffer) {
        end += piece.readableBytes
        if let last = pieces.indices.last, pieces[last].readableBytes + piece.readableBytes <= Self.joinedBytes {
            pieces[last].writeImmutableBuffer(piece)
        } else {
            pieces.append(piece)
        }
        forget(upTo: end - limit)
    }

    /// What is kept from a position on, at most `count` bytes; empty at the end. The position must not be before `start`.
    package func read(from position: Int, atMost count: Int) -> ByteBuffer {
        var result = ByteBuffer()
        var at = start
        for piece in pieces {
            let room = count - result.readableBytes
            guard room > 0 else { break }
            let skipped = max(0, position - at)
            if skipped < piece.readableBytes {
                let length = min(room, piece.readableBytes - skipped)
                result.writeBytes(piece.readableBytesView.dropFirst(skipped).prefix(length))
            }
            at += piece.readableBytes
        }
        return result
    }

    /// Where a reader that comes later begins: at the first whole line, so that it starts in no middle of a sequence.
    package var replayStart: Int {
        guard start > 0 else { return 0 }
        let head = read(from: start, atMost: 4 << 10)
        guard let newline = head.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) else { return start }
        return start + newline - head.readerIndex + 1
    }

    private mutating func forget(upTo position: Int) {
        var surplus = position - start
        guard surplus > 0 else { return }
        start = position
        var first = 0
        while surplus > 0 {
            let length = pieces[first].readableBytes
            if length > surplus {
                pieces[first].moveReaderIndex(forwardBy: surplus)
                break
            }
            surplus -= length
            first += 1
        }
        pieces.removeFirst(first)
    }
}
