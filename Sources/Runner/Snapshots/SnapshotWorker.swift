import Docker
import Domain
import Logging
import NIOPosix
import Store
import Synchronization

/// Claims jobs of snapshots and brings each to its end, a few at a time.
///
/// The claim is a lease: its holder renews it while it works, and whoever finds it expired takes the job over. So a runner that
/// dies delays a job, and nothing else.
struct SnapshotWorker: Sendable {
    private let parts: RunnerParts
    private let maker: SnapshotMaker
    private let builder: SnapshotBuilder
    private let capturer: CaptureMaker
    private let threads: NIOThreadPool
    private let duty: Duty
    private let pace: RunnerPace

    /// Captures have hands of their own: who waits for one has his sandbox held up, and does not queue behind builds.
    enum Duty { case images, captures }

    init(_ parts: RunnerParts, registry: RegistryAccess, duty: Duty) {
        self.parts = parts
        self.duty = duty
        pace = parts.pace
        maker = SnapshotMaker(parts: parts, registry: registry, loans: parts.loans)
        builder = SnapshotBuilder(parts: parts, maker: maker)
        threads = NIOThreadPool(numberOfThreads: max(1, pace.snapshotsLimit) + 1)
        capturer = CaptureMaker(parts: parts, maker: maker, threads: threads)
    }

    /// Works until cancelled. `wakes` says that there may be a job; without it one is looked for now and then.
    func run(wakes: AsyncStream<Void>) async {
        threads.start()
        switch duty {
        case .images:
            await maker.sweep()
            await builder.sweep()
        case .captures: await capturer.sweep()
        }
        await work(wakes: wakes)
        try? await threads.shutdownGracefully()
    }

    /// What a hand takes.
    private enum Readiness { case all, ownersOnly }

    private func work(wakes: AsyncStream<Void>) async {
        var crews: [(count: Int, readiness: Readiness)] = [(max(1, pace.snapshotsLimit), .all)]
        // However many backups are under way, an owner does not queue behind them.
        if duty == .captures { crews.append((1, .ownersOnly)) }
        await withDiscardingTaskGroup { group in
            var bells: [AsyncStream<Void>.Continuation] = []
            for crew in crews {
                let (calls, call) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(crew.count))
                bells.append(call)
                for _ in 0..<crew.count {
                    group.addTask { for await _ in calls { await work(crew.readiness, call) } }
                }
            }
            let ring = { @Sendable [bells] in for bell in bells { bell.yield() } }
            group.addTask {
                ring()
                for await _ in wakes { ring() }
            }
            group.addTask {
                while (try? await Task.sleep(for: pace.snapshotPollInterval)) != nil { ring() }
            }
        }
    }

    /// Takes jobs while there are any. While it is at one, another hand may look for the next.
    private func work(_ readiness: Readiness, _ call: AsyncStream<Void>.Continuation) async {
        while !Task.isCancelled {
            do {
                guard let job = try await claim(readiness) else { return }
                call.yield()
                await carryOut(job)
                // Another runner may have room, and does not find all jobs tried here.
                if duty == .images, await parts.hasNoRoom() { try await Task.sleep(for: pace.noRoomPause) }
            } catch {
                if !Task.isCancelled {
                    parts.logger.warning("no job of a snapshot can be claimed", metadata: ["error": "\(error)"])
                }
                return
            }
        }
    }

    private func claim(_ readiness: Readiness) async throws -> SnapshotJob? {
        switch duty {
        case .images: try await parts.queries.claimSnapshotJob([.pull, .build], for: pace.snapshotLease)
        case .captures: try await parts.queries.claimCapture(for: pace.snapshotLease, mayBeBackup: readiness == .all)
        }
    }

    /// The job is not this runner's any more, or not wanted any more.
    private struct Fenced: Error {}

    private func carryOut(_ job: SnapshotJob) async {
        var logger = parts.logger
        logger[metadataKey: "snapshot.id"] = "\(job.snapshot)"
        logger.info("snapshot is made", metadata: ["image.name": "\(job.imageName ?? "")"])
        let position = SnapshotMaker.Position(job.kind)
        do {
            let made = try await holding(job, position) { try await make(job, position) }
            guard try await parts.queries.finish(job, made) else { throw Fenced() }
            logger.info(
                "snapshot is active",
                metadata: ["image.name": "\(made.image)", "image.bytes": "\(made.sizeBytes)"]
            )
        } catch is Fenced {
            // What may have been pushed already is another runner's, or in a repository that was discarded.
            logger.notice("a snapshot's job is not this runner's any more, or not wanted any more")
        } catch {
            await fail(job, error, position, logger)
        }
    }

    private func make(_ job: SnapshotJob, _ position: SnapshotMaker.Position) async throws -> FinishedSnapshot {
        try await parts.requireRoom(to: "make an image")
        return switch job.kind {
        case .pull: try await maker.make(job, position)
        case .build: try await builder.make(job, position)
        case .capture: try await capturer.make(job, position)
        }
    }

    /// Runs `body` while the lease is renewed; cancels it when the job is held no longer.
    private func holding<Value: Sendable>(
        _ job: SnapshotJob,
        _ position: SnapshotMaker.Position,
        _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        try await withThrowingTaskGroup(of: Value?.self) { group in
            group.addTask { try await body() }
            group.addTask {
                try await renew(job, position)
                return nil
            }
            // Also where the database, which would say so, is away: nothing is pushed after this.
            group.addTask {
                try await Task.sleep(for: job.timeLeft)
                throw Fenced()
            }
            defer { group.cancelAll() }
            while let ended = try await group.next() { if let value = ended { return value } }
            throw CancellationError()
        }
    }

    /// A renewal that fails is tried again: until the lease has expired, nothing is lost.
    private func renew(_ job: SnapshotJob, _ position: SnapshotMaker.Position) async throws {
        while true {
            try await Task.sleep(for: pace.snapshotLease / 10)
            let now = position.now
            var isHeld = true
            do {
                isHeld = try await parts.queries.hold(
                    job,
                    for: pace.snapshotLease,
                    step: now.step.rawValue,
                    progress: now.meter.progress
                )
            } catch {
                try Task.checkCancellation()
                parts.logger.warning("a snapshot's job cannot be renewed", metadata: ["error": "\(error)"])
            }
            if !isHeld { throw Fenced() }
        }
    }

    private func fail(_ job: SnapshotJob, _ error: any Error, _ position: SnapshotMaker.Position, _ logger: Logger)
        async
    {
        // A runner that stops leaves the job to whoever finds its lease expired.
        if Task.isCancelled { return }
        let (step, meter) = position.now
        let cause = SnapshotFailureCause(error, step: step)
        if cause == .disk { parts.room.call() }
        let reason = snapshotReason(
            error,
            step: step,
            image: job.imageName ?? "",
            lines: meter.lastLines,
            disk: cause == .disk ? await parts.blueprint.host.diskUsage() : nil
        )
        let fate =
            if let order = job.capture {
                judgeCaptureFailure(error, step: step, failures: job.failures, for: order.purpose)
            } else {
                judgeSnapshotFailure(error, step: step, failures: job.failing == cause ? job.failures : 0)
            }
        await tell(fate, of: job, job.capture == nil ? cause : nil, reason, logger)
    }

    /// - Parameter cause: nil for a capture: who waits for it is held up whatever the cause, so all are counted together.
    private func tell(
        _ fate: SnapshotFate,
        of job: SnapshotJob,
        _ cause: SnapshotFailureCause?,
        _ reason: String,
        _ logger: Logger
    ) async {
        logger.warning("snapshot failed", metadata: ["snapshot.reason": "\(reason)", "snapshot.fate": "\(fate)"])
        do {
            let pause: Duration? =
                switch fate {
                case .final: nil
                case .retry(let pause): pause
                }
            _ = try await parts.queries.fail(job, of: cause, reason: reason, retryAfter: pause)
        } catch {
            // Its lease will expire.
            logger.warning("a snapshot's failure cannot be told", metadata: ["error": "\(error)"])
        }
    }
}
