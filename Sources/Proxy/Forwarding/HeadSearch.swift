import NIOCore

#if canImport(Glibc)
    import Glibc
#endif

/// Finds the end of a head in bytes that arrive piece by piece, looking at each byte once.
struct HeadSearch {
    private var searched = 0

    /// The head's length with its empty line, or nil while that has not come.
    mutating func length(in buffer: ByteBuffer) -> Int? {
        let from = max(0, searched - 3)
        let found = buffer.withUnsafeReadableBytes { Self.end(in: $0, from: from) }
        searched = found == nil ? buffer.readableBytes : 0
        return found
    }

    /// Looks at each line feed: the one between two carriage returns, followed by another, ends the head.
    private static func end(in bytes: UnsafeRawBufferPointer, from start: Int) -> Int? {
        guard let base = bytes.baseAddress else { return nil }
        var position = start
        while position < bytes.count,
            let place = memchr(base + position, Int32(Syntax.lineFeed), bytes.count - position)
        {
            let index = UnsafeRawPointer(place) - base
            guard index + 2 < bytes.count else { return nil }
            if index > 0, bytes[index - 1] == Syntax.carriageReturn, bytes[index + 1] == Syntax.carriageReturn,
                bytes[index + 2] == Syntax.lineFeed
            {
                return index + 3
            }
            position = index + 1
        }
        return nil
    }
}
