import FoundationEssentials
import Glibc
import HTTPTypes
package import NIOCore
import NIOPosix
import Synchronization

/// What kind of terminal was recorded.
package enum RecordingKind: String, Codable, Sendable {
    /// Of the toolbox, whose clients are the SDK's and the web page's.
    case pty
    case ssh
}

/// Names a recording and its file.
package struct RecordingID: Hashable, Sendable {
    let text: String

    /// A new one.
    init() { text = UUID().uuidString.lowercased() }

    /// Nil for what is no UUID as we write them.
    package init?(_ text: String) {
        guard UUID(uuidString: text)?.uuidString.lowercased() == text else { return nil }
        self.text = text
    }
}

/// What a terminal shows, on its way to a file.
///
///     terminal ── output, resize, end ──▶ pending (whole lines, bounded) ── one blocking thread at a time ──▶ file
///
/// Nothing that a terminal calls blocks or fails. What cannot be kept is missing, and a marker in the recording says so: output
/// for which the disk was too slow; all that follows when a limit is reached or the disk is full, which is the recording's end.
package final class Recording: Sendable {
    /// How a recording ended. Nothing is recorded any more.
    package struct End: Sendable, Equatable {
        package var reason: String
        /// Since its begin.
        package var seconds: Double
    }

    fileprivate struct State {
        var cast = CastWriter()
        /// Lines that wait for the disk.
        var pending = ByteBuffer()
        /// Of all lines so far, in the file or on the way to it.
        var acceptedBytes = 0
        /// Of whole lines in the file.
        var writtenBytes = 0
        /// Of output that is missing since the last line.
        var missedBytes = 0
        var file: OpenFile?
        /// A thread takes lines to the file.
        var isWriting = false
        var end: End?
        /// Its file is gone, or is to go.
        var isDiscarded = false
    }

    /// Before the reason, in the marker that is a file's last line.
    fileprivate static let endMark = "recording ended: "

    package let id: RecordingID
    package let header: CastHeader
    private let began: ContinuousClock.Instant
    private let table: RecordingTable
    private let state: Mutex<State>

    /// A recording that begins now.
    init(_ header: CastHeader, in table: RecordingTable) {
        id = RecordingID()
        self.header = header
        self.table = table
        began = .now
        var state = State()
        state.pending = header.line
        state.acceptedBytes = state.pending.readableBytes
        self.state = Mutex(state)
    }

    /// One whose file is there, whatever ended it.
    private init(_ id: RecordingID, _ header: CastHeader, bytes: Int, end: End, in table: RecordingTable) {
        self.id = id
        self.header = header
        self.table = table
        began = .now
        var state = State()
        (state.writtenBytes, state.end) = (bytes, end)
        self.state = Mutex(state)
    }

    /// How it ended; nil while it goes on.
    package var ending: End? { state.withLock { $0.end } }

    /// So much of it is in its file.
    package var sizeBytes: Int { state.withLock { $0.writtenBytes } }

    /// How long it was, or has been until now.
    package var seconds: Double { ending?.seconds ?? (ContinuousClock.now - began).inSeconds }

    /// There are lines that have not reached the file yet.
    var isWriting: Bool { state.withLock { $0.isWriting } }

    // MARK: What a terminal tells

    /// It showed this.
    package func output(_ bytes: ByteBuffer) {
        change { state, time in
            guard state.hasRoom(for: bytes.readableBytes, at: time) else { return }
            state.add(at: time, upTo: table.limits.recordingBytes) {
                $0.output(bytes.readableBytesView, at: time, into: &$1)
            }
        }
    }

    /// It has another size.
    package func resize(_ size: TerminalSize) {
        change { state, time in
            guard state.hasRoom(for: 0, at: time) else { return }
            state.add(at: time, upTo: table.limits.recordingBytes) { $0.resize(size.orUsual, at: time, into: &$1) }
        }
    }

    /// It is over. What is told later is ignored.
    package func end(_ reason: String) {
        change { state, time in state.finish(reason, at: time) }
    }

    /// Creates the file.
    func begin() { change { _, _ in } }

    private func change(_ body: (inout State, Duration) -> Void) {
        let mustWrite = state.withLock { state in
            guard state.end == nil else { return false }
            body(&state, ContinuousClock.now - began)
            guard !state.isWriting, state.pending.readableBytes > 0 else { return false }
            state.isWriting = true
            return true
        }
        // Only the blocking threads' shutdown makes this fail, and they are never shut down.
        if mustWrite { NIOThreadPool.singleton.submit { [self] _ in writeAll() } }
    }

    // MARK: The file. All of this blocks.

    private func writeAll() {
        while true {
            // The file is closed where this is freed: outside of the lock.
            let (lines, done) = state.withLock { $0.takePending() }
            guard let lines else { return withExtendedLifetime(done) {} }
            do {
                try write(lines)
            } catch let error as IOError {
                giveUp("cannot write: \(describeErrno(error.errnoCode))")
            } catch let error as RecordingRefusal {
                giveUp(error.reason)
            } catch {
                giveUp("cannot write: \(error)")
            }
        }
    }

    private func write(_ lines: ByteBuffer) throws {
        let file = try openedFile()
        try table.reserve(lines.readableBytes, for: self)
        try file.write(lines, at: Int64(sizeBytes))
        state.withLock { $0.writtenBytes += lines.readableBytes }
    }

    private func openedFile() throws -> OpenFile {
        if let known = state.withLock({ $0.file }) { return known }
        table.load()
        let file = try table.directory.makeFile(id)
        let isDiscarded = state.withLock { state in
            if !state.isDiscarded { state.file = file }
            return state.isDiscarded
        }
        if isDiscarded { table.directory.remove(id) }
        return file
    }

    /// Ends it where it is: after the last whole line, with a marker if there is room for one. Also what had ended and is not all
    /// there ends so.
    private func giveUp(_ reason: String) {
        let (file, whole, marker) = state.withLock { state in
            state.finish(reason, at: ContinuousClock.now - began)
            state.end?.reason = reason
            state.pending = ByteBuffer()
            return (state.file, state.writtenBytes, state.end.map(State.marker) ?? ByteBuffer())
        }
        guard let file else { return }
        // Not even its first line is there.
        guard whole > 0 else { return table.directory.remove(id) }
        ftruncate(file.descriptor, off_t(whole))
        do {
            try file.write(marker, at: Int64(whole))
            state.withLock { $0.writtenBytes += marker.readableBytes }
        } catch {
            // Not even that: who lists it now is told the reason, who does after a restart that it was interrupted.
            ftruncate(file.descriptor, off_t(whole))
        }
    }

    /// Ends it and removes its file.
    func discard() {
        let file = state.withLock { state in
            state.finish("it was deleted", at: ContinuousClock.now - began)
            state.pending = ByteBuffer()
            state.isDiscarded = true
            defer { state.file = nil }
            return state.file
        }
        withExtendedLifetime(file) {}
        table.directory.remove(id)
    }

    /// Its file as it is, and how much of it are whole lines.
    /// - Throws: 409 if nothing of it could be written, 404 if somebody removed the file.
    func open() throws -> (file: OpenFile, count: Int) {
        let (bytes, end) = state.withLock { ($0.writtenBytes, $0.end) }
        if bytes == 0, let end { throw ToolboxError(.conflict, "CONFLICT", "nothing was recorded: \(end.reason)") }
        do {
            let file = try table.directory.open(id)
            return (file, min(bytes, FileStatus.of(file)?.size ?? 0))
        } catch is IOError {
            throw ToolboxError(.notFound, "FILE_NOT_FOUND", "the file of recording \(id.text) is not there")
        }
    }

    /// What an earlier daemon left; nil, with the file removed, if it is no recording. What was cut off in the middle of a line
    /// loses that line. One that is being written goes on elsewhere, in a directory that several sandboxes share: it is left
    /// alone. So the lock is a shared one: who else is looking writes nothing.
    static func restored(_ id: RecordingID, in table: RecordingTable) -> Recording? {
        guard let file = try? table.directory.open(id, writes: true), flock(file.descriptor, LOCK_SH | LOCK_NB) == 0
        else { return nil }
        guard let head = try? file.read(RecordingLimits.headerBytes, at: 0),
            let length = head.readableBytesView.firstIndex(of: newline),
            let header = try? JSONDecoder().decode(CastHeader.self, from: Data(head.readableBytesView[..<length])),
            header.isPlausible, let (bytes, last) = try? wholeLines(of: file),
            bytes <= table.limits.recordingBytes + RecordingLimits.lineBytes
        else {
            table.directory.remove(id)
            return nil
        }
        let event = try? JSONDecoder().decode(CastEvent.self, from: Data(last.readableBytesView))
        var end = End(reason: "it was interrupted: the sandbox stopped or was killed", seconds: 0)
        if let event, CastHeader.times.contains(event.seconds) { end.seconds = event.seconds }
        if let event, event.code == "m", event.content.hasPrefix(endMark) {
            end.reason = String(event.content.dropFirst(endMark.count))
        }
        return Recording(id, header, bytes: bytes, end: end, in: table)
    }

    /// Cuts off what is no whole line; answers how much is left, and its last line.
    private static func wholeLines(of file: OpenFile) throws -> (bytes: Int, last: ByteBuffer) {
        let size = FileStatus.of(file)?.size ?? 0
        // As a rule a short line is the last.
        for limit in [RecordingLimits.endBytes, RecordingLimits.lineBytes] {
            let start = max(0, size - limit)
            let tail = try file.read(size - start, at: Int64(start)).readableBytesView
            guard let end = tail.lastIndex(of: newline) else { continue }
            let whole = tail[..<end]
            let before = whole.lastIndex(of: newline)
            guard before != nil || start == 0 || limit == RecordingLimits.lineBytes else { continue }
            let bytes = start + end - tail.startIndex + 1
            if bytes < size { ftruncate(file.descriptor, off_t(bytes)) }
            return (bytes, ByteBuffer(before.map { whole[($0 + 1)...] } ?? whole))
        }
        throw IOError(errnoCode: EINVAL, reason: "no line ends")
    }
}

private let newline = UInt8(ascii: "\n")

extension Recording.State {
    /// Whether output may be added; counts it as missing if not. Says first what is missing before it.
    fileprivate mutating func hasRoom(for count: Int, at time: Duration) -> Bool {
        guard pending.readableBytes < RecordingLimits.bufferBytes else {
            missedBytes += count
            return false
        }
        tellMissed(at: time)
        return true
    }

    private mutating func tellMissed(at time: Duration) {
        guard missedBytes > 0 else { return }
        let remark = "\(missedBytes) bytes of output are missing here: the disk was too slow"
        missedBytes = 0
        cast.mark(remark, at: time, into: &pending)
    }

    /// Adds lines, unless the file would be too long with them: then it is finished without.
    fileprivate mutating func add(
        at time: Duration,
        upTo limit: Int,
        _ lines: (inout CastWriter, inout ByteBuffer) -> Void
    ) {
        let before = pending.writerIndex
        lines(&cast, &pending)
        let count = pending.writerIndex - before
        guard acceptedBytes + count <= limit - RecordingLimits.endBytes else {
            pending.moveWriterIndex(to: before)
            return finish("it has \(limit) bytes, the limit of a recording", at: time)
        }
        acceptedBytes += count
    }

    fileprivate mutating func finish(_ reason: String, at time: Duration) {
        guard end == nil else { return }
        end = Recording.End(reason: reason, seconds: time.inSeconds)
        tellMissed(at: time)
        cast.mark(Recording.endMark + reason, at: time, into: &pending)
    }

    /// The last line of what ended so.
    fileprivate static func marker(_ end: Recording.End) -> ByteBuffer {
        var (cast, line) = (CastWriter(), ByteBuffer())
        cast.mark(Recording.endMark + end.reason, at: .seconds(end.seconds), into: &line)
        return line
    }

    /// What is to be written next. When that is nothing the writer is done, and with the recording's end the file is too.
    fileprivate mutating func takePending() -> (lines: ByteBuffer?, done: OpenFile?) {
        guard pending.readableBytes > 0 else {
            isWriting = false
            guard end != nil else { return (nil, nil) }
            defer { file = nil }
            return (nil, file)
        }
        defer { pending = ByteBuffer() }
        return (pending, nil)
    }
}

extension TerminalSize {
    /// Players need one; a client of SSH may have none.
    var orUsual: TerminalSize {
        TerminalSize(columns: columns == 0 ? 80 : columns, rows: rows == 0 ? 24 : rows)
    }
}

extension Duration {
    /// As a number, to the microsecond.
    var inSeconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds / 1_000_000_000_000) / 1e6
    }
}
