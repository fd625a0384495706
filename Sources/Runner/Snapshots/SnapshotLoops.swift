import Logging
import Store

/// What a runner does for snapshots: makes their images, and keeps its cache of them. Nothing where it has no registry.
struct SnapshotLoops: Sendable {
    private let parts: RunnerParts
    private let region: String
    private let jobs: (wakes: AsyncStream<Void>, wake: AsyncStream<Void>.Continuation)
    private let captures: (wakes: AsyncStream<Void>, wake: AsyncStream<Void>.Continuation)
    private let turns: (wakes: AsyncStream<Void>, wake: AsyncStream<Void>.Continuation)

    init(_ parts: RunnerParts, region: String) {
        self.parts = parts
        self.region = region
        let (jobWakes, jobWake) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let (captureWakes, captureWake) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let (turnWakes, turnWake) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        jobs = (jobWakes, jobWake)
        captures = (captureWakes, captureWake)
        turns = (turnWakes, turnWake)
    }

    /// Something about snapshots changed. Never blocks.
    func wake() {
        jobs.wake.yield()
        captures.wake.yield()
        turns.wake.yield()
    }

    /// Until cancelled.
    func run() async {
        await forgetFormerProcess()
        guard let registry = parts.registry else {
            parts.logger.notice(
                "this runner has no registry: it makes no snapshots, and runs none that were made elsewhere"
            )
            return
        }
        await withDiscardingTaskGroup { group in
            group.addTask { await SnapshotWorker(parts, registry: registry, duty: .images).run(wakes: jobs.wakes) }
            group.addTask {
                await SnapshotWorker(parts, registry: registry, duty: .captures).run(wakes: captures.wakes)
            }
            group.addTask { await ImageCache(parts, registry: registry, region: region).run(wakes: turns.wakes) }
        }
    }

    private func forgetFormerProcess() async {
        do {
            try await parts.queries.forgetPulls(of: parts.identity)
            try await parts.queries.releaseSnapshotJobs()
        } catch {
            if !Task.isCancelled {
                parts.logger.warning(
                    "what a former process was at cannot be let go of",
                    metadata: ["error": "\(error)"]
                )
            }
        }
    }
}
