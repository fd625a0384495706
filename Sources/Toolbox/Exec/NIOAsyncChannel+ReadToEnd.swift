package import NIOCore

extension NIOAsyncChannel where Inbound == ByteBuffer, Outbound == Never {
    /// Reads a program's output to its end, and closes it. It may end with an error: a terminal that nobody has open any more
    /// says EIO, and one who gives up on an output, after a kill, closes it under the reader. What was read until then is all
    /// that there is.
    package func readToEnd(_ take: (ByteBuffer) async -> Void) async {
        try? await executeThenClose { inbound in
            for try await piece in inbound { await take(piece) }
        }
    }
}
