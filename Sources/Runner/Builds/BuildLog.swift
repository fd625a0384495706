import Logging
import Store
import Synchronization

/// What one build prints, on its way into rows: in order, bounded, a few times a second.
///
/// The limit of the whole log bounds what waits here while the database is away.
final class BuildLog: Sendable {
    /// What one build may print; more is counted and not kept.
    static let byteLimit = 1 << 20
    /// Bytes of one row.
    private static let pieceBytes = 64 << 10
    private static let interval: Duration = .milliseconds(200)
    private static let tailLimit = 15
    private static let tailLineLimit = 200

    fileprivate struct State {
        var pending: [UInt8] = []
        var printed = 0
        var line = ""
        var tail: [String] = []
    }

    private let queries: RunnerQueries
    private let job: SnapshotJob
    private let logger: Logger
    private let state = Mutex(State())

    init(queries: RunnerQueries, job: SnapshotJob, logger: Logger) {
        self.queries = queries
        self.job = job
        self.logger = logger
    }

    /// Runs `body` while what is printed is written down. All of it is, as far as the database lets it, when this returns.
    func keeping<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) async throws -> Value {
        let result: Result<Value, any Error> = await withTaskGroup(of: Result<Value, any Error>?.self) { group in
            group.addTask {
                do { return .success(try await body()) } catch { return .failure(error) }
            }
            group.addTask {
                while (try? await Task.sleep(for: Self.interval)) != nil { await self.write() }
                return nil
            }
            var result: Result<Value, any Error>?
            while let ended = await group.next() {
                guard let ended else { continue }
                result = ended
                group.cancelAll()
            }
            return result ?? .failure(CancellationError())
        }
        await write()
        return try result.get()
    }

    /// Text as it comes; lines may be cut anywhere.
    func print(_ text: String) {
        state.withLock { state in
            state.noteTail(text, lines: Self.tailLimit, characters: Self.tailLineLimit)
            guard state.printed <= Self.byteLimit else { return }
            state.printed += text.utf8.count
            if state.printed <= Self.byteLimit {
                state.pending += text.utf8
            } else {
                state.pending +=
                    "\n--- the build printed more than \(Self.byteLimit >> 20) MiB; the rest is not kept ---\n".utf8
            }
        }
    }

    /// The last lines, for a reason.
    var tail: [String] { state.withLock { $0.line.isEmpty ? $0.tail : $0.tail + [$0.line] } }

    /// One writer at a time: the ticker, and after its end whoever ended it.
    private func write() async {
        while true {
            let piece = state.withLock { Array($0.pending.prefix(Self.pieceBytes)) }
            guard !piece.isEmpty else { return }
            do {
                // What is another's now is not written, and whoever renews the lease will hear of it.
                _ = try await queries.appendBuildLog(piece, of: job)
            } catch {
                if !Task.isCancelled {
                    logger.warning("a build's log cannot be written yet", metadata: ["error": "\(error)"])
                }
                return
            }
            state.withLock { $0.pending.removeFirst(piece.count) }
        }
    }
}

extension BuildLog.State {
    fileprivate mutating func noteTail(_ text: String, lines: Int, characters: Int) {
        for (index, part) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            if index > 0 {
                if !line.allSatisfy(\.isWhitespace) { tail.append(line) }
                line = ""
            }
            line = String((line + part.prefix(characters)).prefix(characters))
        }
        if tail.count > lines { tail.removeFirst(tail.count - lines) }
    }
}
