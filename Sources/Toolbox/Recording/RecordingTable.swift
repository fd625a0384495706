import FoundationEssentials
import Glibc
import HTTPTypes
package import Logging
import NIOCore
import NIOPosix
import Synchronization

/// Why nothing more of a recording is kept.
struct RecordingRefusal: Error {
    var reason: String
}

/// All recordings of the sandbox, those of earlier daemons included, and whether new terminals are recorded. Costs nothing
/// while nobody records or asks.
package final class RecordingTable: Sendable {
    fileprivate struct Entry {
        var recording: Recording
        /// Of its file, also those that are being written.
        var bytes: Int
    }

    fileprivate struct State {
        var isOn = false
        /// Those of earlier daemons are here.
        var isLoaded = false
        /// By their beginnings.
        var entries: [Entry] = []
        var hasStopped = false
    }

    let directory: RecordingDirectory
    let limits: RecordingLimits
    private let state = Mutex(State())
    private let logger: Logger

    /// - Parameter directories: where recordings are, absolute: the first of these that can be had.
    package init(in directories: [String], limits: RecordingLimits = RecordingLimits(), logger: Logger) {
        directory = RecordingDirectory(directories)
        self.limits = limits
        self.logger = logger
    }

    /// Whether terminals that are opened from now on are recorded.
    package var isOn: Bool {
        get { state.withLock { $0.isOn } }
        set { state.withLock { $0.isOn = newValue } }
    }

    // MARK: Recording

    /// Begins to record a terminal, if that is wanted. Never blocks.
    /// - Parameter variables: the program's, of which the kind of terminal and the shell are told.
    package func begin(
        _ kind: RecordingKind,
        of terminal: String,
        size: TerminalSize,
        variables: [String: String]
    ) -> Recording? {
        guard isOn else { return nil }
        let recording = Recording(Self.header(kind, terminal, size.orUsual, variables), in: self)
        let (isAdded, surplus) = state.withLock { state in
            let surplus = state.removeOldest { state in state.entries.count >= limits.count }
            let isAdded = state.entries.count < limits.count && !state.hasStopped
            if isAdded { state.entries.append(Entry(recording: recording, bytes: 0)) }
            return (isAdded, surplus)
        }
        if !surplus.isEmpty { NIOThreadPool.singleton.submit { _ in for each in surplus { each.discard() } } }
        guard isAdded else {
            logger.warning("terminal not recorded", metadata: ["recording.limit": "\(limits.count)"])
            return nil
        }
        recording.begin()
        return recording
    }

    private static func header(
        _ kind: RecordingKind,
        _ terminal: String,
        _ size: TerminalSize,
        _ variables: [String: String]
    ) -> CastHeader {
        let named = variables.filter { ["SHELL", "TERM"].contains($0.key) }
        return CastHeader(
            width: Int(size.columns),
            height: Int(size.rows),
            timestamp: (Date.now.timeIntervalSince1970 * 1000).rounded() / 1000,
            title: "\(kind.rawValue) \(terminal)".cut(to: RecordingLimits.textBytes),
            env: named.mapValues { $0.cut(to: RecordingLimits.textBytes) },
            martlet: .init(kind: kind, terminal: terminal.cut(to: RecordingLimits.textBytes))
        )
    }

    /// Makes room for more of a recording: what ended longest ago goes. Blocks.
    /// - Throws: `RecordingRefusal` if there is none, or the recording was deleted.
    func reserve(_ count: Int, for recording: Recording) throws {
        let (isReserved, surplus) = state.withLock { state -> (Bool?, [Recording]) in
            let surplus = state.removeOldest { state in state.bytes + count > limits.totalBytes }
            guard let index = state.entries.firstIndex(where: { $0.recording === recording }) else {
                return (nil, surplus)
            }
            guard state.bytes + count <= limits.totalBytes else { return (false, surplus) }
            state.entries[index].bytes += count
            return (true, surplus)
        }
        for each in surplus { each.discard() }
        switch isReserved {
        case true?: return
        case false?: throw RecordingRefusal(reason: "all recordings have \(limits.totalBytes) bytes, the limit")
        case nil: throw RecordingRefusal(reason: "it was deleted")
        }
    }

    // MARK: Asking

    /// All of them, the oldest first.
    package func all() async throws -> [Recording] {
        try await onBlockingThread { [self] in load() }
        return state.withLock { $0.entries.map(\.recording) }
    }

    /// - Throws: 400 for what is no id, 404 if there is none with it.
    package func recording(_ text: String) async throws -> Recording {
        guard let id = RecordingID(text) else {
            throw ToolboxError.badRequest(
                "'\(text.cut(to: 80))' is no id of a recording; GET /process/recordings lists them"
            )
        }
        guard let found = try await all().first(where: { $0.id == id }) else { throw Self.notFound(id) }
        return found
    }

    /// Removes a recording with its file; one that goes on ends.
    /// - Throws: as `recording`, also 404 if another one removed it just now.
    package func delete(_ text: String) async throws {
        let recording = try await recording(text)
        let isMine = state.withLock { state in
            guard let index = state.entries.firstIndex(where: { $0.recording === recording }) else { return false }
            state.entries.remove(at: index)
            return true
        }
        guard isMine else { throw Self.notFound(recording.id) }
        try await onBlockingThread { recording.discard() }
    }

    private static func notFound(_ id: RecordingID) -> ToolboxError {
        ToolboxError(.notFound, "NOT_FOUND", "no recording \(id.text); GET /process/recordings lists them")
    }

    // MARK: Begin and end of the daemon

    /// Takes in what earlier daemons left. Blocks. Many may do so at once: a recording of this daemon's is here before its file is
    /// there, so none of them takes it for an old one.
    func load() {
        guard !state.withLock({ $0.isLoaded }) else { return }
        var found: [Recording] = []
        for id in directory.ids() where !isKnown(id) {
            if let old = Recording.restored(id, in: self) { found.append(old) }
        }
        let surplus = state.withLock { state -> [Recording] in
            guard !state.isLoaded else { return [] }
            state.isLoaded = true
            state.entries += found.map { Entry(recording: $0, bytes: $0.sizeBytes) }
            state.entries.sort { $0.recording.header.timestamp < $1.recording.header.timestamp }
            return state.removeOldest { state in
                state.entries.count > limits.count || state.bytes > limits.totalBytes
            }
        }
        for each in surplus { each.discard() }
    }

    private func isKnown(_ id: RecordingID) -> Bool {
        state.withLock { state in state.isLoaded || state.entries.contains { $0.recording.id == id } }
    }

    /// Ends all, and waits until they are in their files, with a limit on how long that may take. To be called when the
    /// terminals have ended.
    package func stop() async {
        let all = state.withLock { state in
            state.hasStopped = true
            return state.entries.map(\.recording)
        }
        for recording in all { recording.end("the sandbox stopped") }
        let deadline = ContinuousClock.now + RecordingLimits.stopping
        // Polls, because stopping happens once and writing takes a millisecond as a rule.
        while all.contains(where: \.isWriting), .now < deadline { try? await Task.sleep(for: .milliseconds(5)) }
        // They hold the table.
        state.withLock { $0.entries = [] }
    }
}

extension RecordingTable.State {
    fileprivate var bytes: Int { entries.reduce(0) { $0 + $1.bytes } }

    /// Takes out what has ended, the oldest first, for as long as there is too much.
    fileprivate mutating func removeOldest(while isTooMuch: (RecordingTable.State) -> Bool) -> [Recording] {
        var removed: [Recording] = []
        while isTooMuch(self), let index = entries.firstIndex(where: { $0.recording.ending != nil }) {
            removed.append(entries.remove(at: index).recording)
        }
        return removed
    }
}
