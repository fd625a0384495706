import Domain
import NIOPosix
import Synchronization

/// Calls into mounted volumes, which rclone must answer, and for some of which it must ask S3. A thread that makes one cannot be
/// called back; so whoever asked goes on without an answer when its time is over, and the thread is counted until it returns.
final class VolumeCalls: Sendable {
    /// How long rclone may be silent. It needs no S3 for a sign of life, but a busy host may be late.
    private static let signLimit: Duration = .seconds(30)
    /// How long it may take to find or make a folder of a volume, of which S3 must be asked.
    private static let folderLimit: Duration = .seconds(30)
    private static let signThreads = 8
    private static let folderThreads = 16

    private let signs = VolumeCalls.pool(of: signThreads)
    private let folders = VolumeCalls.pool(of: folderThreads)
    /// How many threads are still with a volume after their time.
    private let late = Mutex<[VolumeID: Int]>([:])

    /// Those of this process: its threads end with it.
    static let shared = VolumeCalls()

    private init() {}

    private static func pool(of count: Int) -> NIOThreadPool {
        let pool = NIOThreadPool(numberOfThreads: count)
        pool.start()
        return pool
    }

    /// Whether what is mounted at a path works; false where its process is gone, or has been silent for the limit. Throws if it
    /// could not be asked.
    func isAlive(_ path: String, within limit: Duration = VolumeCalls.signLimit) async throws -> Bool {
        switch try await call(signs, within: limit, { HostMounts.isAnswering(path) }, afterwards: {}) {
        case .answer(let isAnswering): return isAnswering
        case .silence:
            try Task.checkCancellation()
            return false
        case .unasked: throw RunnerError(.volume, "\(path) could not be looked at: too many volumes of this host hang")
        }
    }

    /// Works on a folder of a volume. After this has thrown, what was begun may still be done. Until it is, nothing more is begun
    /// on that volume: one whose S3 hangs takes no threads from others.
    func work(
        on volume: VolumeID,
        within limit: Duration = VolumeCalls.folderLimit,
        _ body: @escaping @Sendable () throws -> Void
    ) async throws {
        guard late.withLock({ $0[volume] == nil }) else { throw Self.slowness(volume) }
        switch try await call(folders, within: limit, body, afterwards: { self.count(-1, volume) }) {
        case .answer: return
        case .silence:
            count(1, volume)
            try Task.checkCancellation()
            throw Self.slowness(volume)
        case .unasked: throw RunnerError(.volume, "volume \(volume) was not asked: the S3 of too many volumes is slow")
        }
    }

    private static func slowness(_ volume: VolumeID) -> RunnerError {
        RunnerError(.volume, "volume \(volume) does not give out a folder in time: its S3 is slow or away")
    }

    /// In whatever order the two come that belong together.
    private func count(_ change: Int, _ volume: VolumeID) {
        late.withLock { late in
            let count = late[volume, default: 0] + change
            late[volume] = count == 0 ? nil : count
        }
    }

    // MARK: - One call

    private enum Outcome<Value: Sendable>: Sendable {
        case answer(Value)
        /// It goes on, and `afterwards` is run when it ends.
        case silence
        /// It was not begun in time, and never will be; or it ended just as the time was over.
        case unasked
    }

    private enum Stage {
        case queued, begun, ended, givenUp
    }

    private func call<Value: Sendable>(
        _ pool: NIOThreadPool,
        within limit: Duration,
        _ body: @escaping @Sendable () throws -> Value,
        afterwards: @escaping @Sendable () -> Void
    ) async throws -> Outcome<Value> {
        let stage = Standing(Stage.queued)
        let (answers, answer) = AsyncStream<Result<Value, any Error>>.makeStream(bufferingPolicy: .bufferingOldest(1))
        pool.submit { state in
            guard state == .active, stage.move(from: .queued, to: .begun) else { return answer.finish() }
            answer.yield(Result { try body() })
            answer.finish()
            if !stage.move(from: .begun, to: .ended) { afterwards() }
        }
        if let result = await first(of: answers, within: limit) { return .answer(try result.get()) }
        if stage.move(from: .begun, to: .givenUp) { return .silence }
        _ = stage.move(from: .queued, to: .givenUp)
        return .unasked
    }

    private func first<Value: Sendable>(of answers: AsyncStream<Value>, within limit: Duration) async -> Value? {
        await withTaskGroup(of: Value?.self) { group in
            group.addTask { await answers.first { _ in true } }
            group.addTask {
                try? await Task.sleep(for: limit)
                return nil
            }
            defer { group.cancelAll() }
            return await group.next() ?? nil
        }
    }

    /// Where a call stands, for the two that must agree on it: its thread, and who waits.
    private final class Standing: Sendable {
        private let stage: Mutex<Stage>

        init(_ stage: Stage) { self.stage = Mutex(stage) }

        /// False where it stands elsewhere.
        func move(from: Stage, to: Stage) -> Bool {
            stage.withLock { stage in
                guard stage == from else { return false }
                stage = to
                return true
            }
        }
    }
}
