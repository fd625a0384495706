package import NIOCore
import Synchronization

/// Most output of the entrypoint that is kept, in bytes; the oldest goes first.
package let entrypointLogLimitBytes = 1 << 20

/// The newest output of a program that runs for long.
package final class LogRing: Sendable {
    private struct State {
        var pieces: [ByteBuffer] = []
        var count = 0
    }

    private let state = Mutex(State())
    private let limit: Int

    package init(limit: Int = entrypointLogLimitBytes) {
        self.limit = limit
    }

    /// Adds output and forgets the oldest beyond the limit.
    package func append(_ piece: ByteBuffer) {
        state.withLock { state in
            join(piece, to: &state)
            state.count += piece.readableBytes
            var first = 0
            while state.count > limit, first < state.pieces.count {
                let surplus = min(state.count - limit, state.pieces[first].readableBytes)
                state.pieces[first].moveReaderIndex(forwardBy: surplus)
                state.count -= surplus
                if state.pieces[first].readableBytes == 0 { first += 1 }
            }
            state.pieces.removeFirst(first)
        }
    }

    /// All that is kept.
    package var contents: ByteBuffer {
        state.withLock { state in
            var all = ByteBuffer()
            for piece in state.pieces { all.writeImmutableBuffer(piece) }
            return all
        }
    }

    /// Small pieces are joined, so that a program that writes a byte at a time does not cost a buffer for each.
    private func join(_ piece: ByteBuffer, to state: inout State) {
        if let last = state.pieces.indices.last, state.pieces[last].readableBytes + piece.readableBytes <= 16 << 10 {
            state.pieces[last].writeImmutableBuffer(piece)
        } else {
            state.pieces.append(piece)
        }
    }
}
