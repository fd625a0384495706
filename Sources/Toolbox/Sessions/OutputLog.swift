package import NIOCore
import NIOPosix
import Synchronization

/// Which of a program's two outputs a piece belongs to. The values are those of the files and of the markers on the wire.
package enum LogStream: UInt8, Sendable, CaseIterable {
    case standardOutput = 1
    case standardError = 2
}

/// Limits of a log.
package enum LogLimit {
    /// Most that is kept of one command's output; the oldest goes first. Counted as stored: five bytes are added to each
    /// piece that was read.
    package static let commandBytes = 128 << 20
    /// The same for the entrypoint, which nobody deletes.
    package static let entrypointBytes = 16 << 20
    /// Output beyond this goes to a file; while it is being written, as much again may be in memory.
    static let memoryBytes = 64 << 10
    /// An ended command's output up to this stays in memory.
    static let inlineBytes = 1 << 10
    /// Largest payload of a record.
    static let recordBytes = 64 << 10
    /// Files of a full log: it forgets one at a time.
    static let segments = 8
    /// Read from a file at a time; holds at least one whole record.
    static let readBytes = 256 << 10
    /// Clients that may follow a log at a time.
    package static let followers = 32
}

/// What a program wrote: both its outputs, as tagged records in the order of arrival, for any number of readers that each go
/// at their own pace. The newest part is in memory, the rest in files; what exceeds the limit is forgotten from the
/// beginning, and readers that come to a gap are told.
///
///     offsets:  begin ──── segments (files) ────┬── flushing ──┬── tail ── end
///                                               being written      in memory
///
/// An offset counts bytes of records from the program's first byte and is never used again.
package final class OutputLog: Sendable {
    fileprivate enum Store {
        case file(LogFile)
        /// Could not be written to a file.
        case memory(ByteBuffer)
    }

    /// Whole records.
    fileprivate struct Segment {
        var start: Int
        var count: Int
        var store: Store
        var end: Int { start + count }
    }

    fileprivate struct State {
        var segments: [Segment] = []
        var flushing = ByteBuffer()
        var tail = ByteBuffer()
        /// Where `tail` begins.
        var tailStart = 0
        /// Set when the program ended: where the log ended then. A process that it left behind may still add to it.
        var finishedAt: Int?
        var discarded = false
        var awaitingRoom: [@Sendable () -> Void] = []
        var awaitingChange: [Int: CheckedContinuation<Void, Never>] = [:]
        var nextWaiter = 0
        var followers = 0
    }

    fileprivate let state = Mutex(State())
    private let directory: LogDirectory
    private let limit: Int
    private let onGrowth: @Sendable () -> Void

    /// Stands for output that was forgotten.
    package var gapNote: String {
        "\n[martlet: output is missing here: the newest \(limit) bytes of a log are kept, fewer if the disk is full]\n"
    }

    /// - Parameters:
    ///   - limit: most bytes kept in files.
    ///   - onGrowth: called on a blocking thread whenever something was stored.
    package init(in directory: LogDirectory, limit: Int, onGrowth: @escaping @Sendable () -> Void = {}) {
        self.directory = directory
        self.limit = limit
        self.onGrowth = onGrowth
    }

    // MARK: Writing

    /// Adds output. False if memory is full until some of it is stored; then `onRoom` is called once, from any thread, and
    /// nothing should be read from the program before. Never blocks.
    @discardableResult
    package func append(_ stream: LogStream, _ bytes: ByteBuffer, onRoom: (@Sendable () -> Void)? = nil) -> Bool {
        var bytes = bytes
        let (woken, mustFlush, hasRoom) = state.withLock { state -> ([CheckedContinuation<Void, Never>], Bool, Bool) in
            guard !state.discarded else { return ([], false, true) }
            while let payload = bytes.readSlice(length: min(LogLimit.recordBytes, bytes.readableBytes)),
                payload.readableBytes > 0
            {
                LogRecord.write(stream, payload, to: &state.tail)
            }
            let isFull = state.tail.readableBytes >= LogLimit.memoryBytes
            let mustFlush = isFull && state.flushing.readableBytes == 0
            if mustFlush { state.startFlush() }
            let hasRoom = !isFull || mustFlush
            if !hasRoom, let onRoom { state.awaitingRoom.append(onRoom) }
            return (state.takeWaiters(), mustFlush, hasRoom)
        }
        for waiter in woken { waiter.resume() }
        if mustFlush { flushInBackground() }
        return hasRoom
    }

    /// Adds output, and waits until there is room for more.
    package func store(_ bytes: ByteBuffer, of stream: LogStream) async {
        await withCheckedContinuation { continuation in
            if append(stream, bytes, onRoom: { continuation.resume() }) { continuation.resume() }
        }
    }

    /// The program ended and its output is all here. Frees most of the memory.
    package func finish() {
        let (woken, mustFlush) = state.withLock { state in
            state.finishedAt = state.end
            let mustFlush =
                state.tail.readableBytes > LogLimit.inlineBytes && state.flushing.readableBytes == 0 && !state.discarded
            if mustFlush { state.startFlush() }
            return (state.takeWaiters(), mustFlush)
        }
        for waiter in woken { waiter.resume() }
        if mustFlush { flushInBackground() }
    }

    /// Forgets all there is, and with `forGood` also what is still to come. Blocks.
    package func discard(forGood: Bool) {
        let (segments, rooms, woken) = state.withLock { state in
            let segments = state.segments
            state.segments = []
            if forGood { state.close() }
            return (segments, forGood ? state.takeRooms() : [], forGood ? state.takeWaiters() : [])
        }
        for segment in segments { segment.remove() }
        for room in rooms { room() }
        for waiter in woken { waiter.resume() }
    }

    /// Bytes in files, and bytes in memory for want of a file.
    package var usage: (files: Int, memory: Int) {
        state.withLock { state in
            state.segments.reduce(into: (files: 0, memory: 0)) { sum, segment in
                switch segment.store {
                case .file: sum.files += segment.count
                case .memory: sum.memory += segment.count
                }
            }
        }
    }

    private func flushInBackground() {
        // Only the blocking threads' shutdown makes this fail, and they are never shut down.
        NIOThreadPool.singleton.submit { [self] _ in
            while flushOnce() {}
            onGrowth()
        }
    }

    /// Stores what `startFlush` took; true if there is more to be stored. Only one thread does so at a time.
    private func flushOnce() -> Bool {
        let (bytes, last) = state.withLock { ($0.flushing, $0.segments.last) }
        let stored = store(bytes, after: last)
        let (surplus, rooms, again) = state.withLock { state -> ([Segment], [@Sendable () -> Void], Bool) in
            guard !state.discarded else { return ([stored], [], false) }
            state.flushing = ByteBuffer()
            state.keep(stored)
            let again =
                state.tail.readableBytes >= LogLimit.memoryBytes
                || state.finishedAt != nil && state.tail.readableBytes > LogLimit.inlineBytes
            let surplus = state.takeSurplus(limit)
            if again { state.startFlush() }
            return (surplus, state.takeRooms(), again)
        }
        for segment in surplus { segment.remove() }
        for room in rooms { room() }
        return again
    }

    /// Appends to the last file, or makes another; what cannot be written stays in memory.
    private func store(_ bytes: ByteBuffer, after last: Segment?) -> Segment {
        let start = state.withLock { $0.tailStart } - bytes.readableBytes
        do {
            if let last, last.end == start, case .file(let file) = last.store, last.count < limit / LogLimit.segments {
                try file.write(bytes, at: last.count)
                return Segment(start: last.start, count: last.count + bytes.readableBytes, store: .file(file))
            }
            let file = try directory.makeFile()
            do { try file.write(bytes, at: 0) } catch {
                file.remove()
                throw error
            }
            return Segment(start: start, count: bytes.readableBytes, store: .file(file))
        } catch {
            return Segment(start: start, count: bytes.readableBytes, store: .memory(bytes))
        }
    }
}

extension OutputLog.State {
    /// Where the next record will be.
    var end: Int { tailStart + tail.readableBytes }

    mutating func startFlush() {
        flushing = tail
        tailStart = end
        tail = ByteBuffer()
    }

    mutating func takeWaiters() -> [CheckedContinuation<Void, Never>] {
        defer { awaitingChange = [:] }
        return Array(awaitingChange.values)
    }

    mutating func takeRooms() -> [@Sendable () -> Void] {
        defer { awaitingRoom = [] }
        return awaitingRoom
    }

    /// Takes nothing any more. The offsets stay.
    mutating func close() {
        discarded = true
        finishedAt = finishedAt ?? end
        (tailStart, tail, flushing) = (end, ByteBuffer(), ByteBuffer())
    }

    /// Adds a segment or replaces the one that it continues. At most one is in memory.
    mutating func keep(_ stored: OutputLog.Segment) {
        if let last = segments.last, last.start == stored.start { segments.removeLast() }
        if case .memory = stored.store {
            segments.removeAll { if case .memory = $0.store { true } else { false } }
        }
        segments.append(stored)
    }

    /// Removes the oldest segments beyond the limit, but never the newest.
    mutating func takeSurplus(_ limit: Int) -> [OutputLog.Segment] {
        var total = segments.reduce(0) { $0 + $1.count }
        var surplus: [OutputLog.Segment] = []
        while total > limit, segments.count > 1 {
            total -= segments[0].count
            surplus.append(segments.removeFirst())
        }
        return surplus
    }
}

extension OutputLog.Segment {
    /// Frees its file. Blocks.
    fileprivate func remove() {
        if case .file(let file) = store { file.remove() }
    }
}

// MARK: - Reading

/// Records that follow one another.
struct LogPiece: Sendable {
    var records: ByteBuffer
    /// Where to go on.
    var next: Int
    /// Something before it was forgotten.
    var followsGap = false
}

extension OutputLog {
    /// Where the log ends now.
    package var end: Int { state.withLock { $0.end } }

    /// Where a reader may stop: the end, once the program has ended.
    var finalEnd: Int? { state.withLock { $0.finishedAt == nil ? nil : $0.end } }

    /// The records at an offset or, if those are forgotten, the first ones after it; nil at the end.
    func piece(at offset: Int) async -> LogPiece? {
        var offset = offset
        var followsGap = false
        while true {
            switch locate(offset) {
            case .nothing:
                // A reader must get beyond what is lost, even if nothing follows yet.
                return followsGap ? LogPiece(records: ByteBuffer(), next: offset, followsGap: true) : nil
            case .memory(var records, let start):
                followsGap = followsGap || start > offset
                if start < offset { records.moveReaderIndex(forwardBy: offset - start) }
                let next = max(start, offset) + records.readableBytes
                return LogPiece(records: records, next: next, followsGap: followsGap)
            case .file(let file, let start, let end):
                followsGap = followsGap || start > offset
                offset = max(start, offset)
                if let records = await Self.read(file, at: offset - start, count: min(end - offset, LogLimit.readBytes))
                {
                    return LogPiece(records: records, next: offset + records.readableBytes, followsGap: followsGap)
                }
                // Forgotten meanwhile, or somebody meddled with the file.
                (offset, followsGap) = (end, true)
            }
        }
    }

    /// Waits until the log goes on after `offset`, the program has ended, or the task is cancelled.
    func change(after offset: Int) async {
        let key = state.withLock { state in
            state.nextWaiter += 1
            return state.nextWaiter
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isDue = state.withLock { state in
                    if state.end > offset || state.finishedAt != nil || Task.isCancelled { return true }
                    state.awaitingChange[key] = continuation
                    return false
                }
                if isDue { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.awaitingChange.removeValue(forKey: key) }?.resume()
        }
    }

    /// Takes one of the places for followers; false if all are taken.
    func addFollower() -> Bool {
        state.withLock { state in
            guard state.followers < LogLimit.followers else { return false }
            state.followers += 1
            return true
        }
    }

    func removeFollower() { state.withLock { $0.followers -= 1 } }

    private enum Location {
        case nothing
        case memory(ByteBuffer, start: Int)
        case file(LogFile, start: Int, end: Int)
    }

    private func locate(_ offset: Int) -> Location {
        state.withLock { state in
            if let segment = state.segments.first(where: { $0.end > offset }) {
                switch segment.store {
                case .file(let file): return .file(file, start: segment.start, end: segment.end)
                case .memory(let records): return .memory(records, start: segment.start)
                }
            }
            if state.tailStart > offset, state.flushing.readableBytes > 0 {
                return .memory(state.flushing, start: state.tailStart - state.flushing.readableBytes)
            }
            guard state.end > offset else { return .nothing }
            // Copied, or the next piece of output would have to copy all of the tail.
            let first = max(0, offset - state.tailStart)
            let fresh = ByteBuffer(bytes: state.tail.readableBytesView.dropFirst(first))
            return .memory(fresh, start: state.tailStart + first)
        }
    }

    /// Whole records, nil if there are none to be had.
    private static func read(_ file: LogFile, at offset: Int, count: Int) async -> ByteBuffer? {
        guard var bytes = try? await onBlockingThread({ try file.read(count, at: offset) }) else { return nil }
        let whole = LogRecord.wholeBytes(of: bytes)
        return whole == 0 ? nil : bytes.readSlice(length: whole)
    }
}
