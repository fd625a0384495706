import NIOCore

/// Reads a log from its beginning, up to an end that is known at the latest when the program has ended.
struct LogCursor: Sendable {
    private let log: OutputLog
    private var offset = 0
    private var stop: Int?

    /// - Parameter stop: an offset where a record ends; nil to go on until the program has ended.
    init(_ log: OutputLog, upTo stop: Int?) {
        self.log = log
        self.stop = stop
    }

    /// The next records, at most `LogLimit.readBytes` of them. Waits for more if the program still runs.
    /// - Returns: nil at the end, or if the task is cancelled.
    mutating func next() async -> LogPiece? {
        while !Task.isCancelled {
            if stop == nil { stop = log.finalEnd }
            if let stop, offset >= stop { return nil }
            if var piece = await log.piece(at: offset) {
                if let stop, piece.next > stop { piece.cut(by: piece.next - stop) }
                offset = piece.next
                return piece
            }
            guard stop == nil else { return nil }
            await log.change(after: offset)
        }
        return nil
    }
}

extension LogPiece {
    /// Leaves the last bytes for later: what came after the end that the reader was promised.
    fileprivate mutating func cut(by surplus: Int) {
        records =
            records.getSlice(at: records.readerIndex, length: max(0, records.readableBytes - surplus)) ?? ByteBuffer()
        next -= surplus
    }
}
