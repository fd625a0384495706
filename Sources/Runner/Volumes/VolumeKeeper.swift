import Domain
import Logging
import Reconciling
import Store

/// Everything that looks after volumes while a runner runs: the passes over mounts, the sweep of what no row explains, and the
/// work in S3 that any runner may do.
struct VolumeKeeper: Sendable {
    let parts: RunnerParts
    let host: VolumeHost

    private static let passesLimit = 4
    private static let workersLimit = 3
    private static let workInterval: Duration = .seconds(5)

    /// Until its task is cancelled.
    ///
    /// - Parameters:
    ///   - changes: volumes that the database says have changed; nil when anything may have.
    ///   - work: whenever a volume is to be made or removed in S3.
    func run(
        changes: AsyncStream<VolumeID?>,
        work: AsyncStream<Void>,
        wake: @escaping @Sendable (SandboxID) -> Void
    ) async {
        let reconciler = VolumeReconciler(parts, host: host, wake: wake)
        let controller = Controller<VolumeID>(
            name: "volume",
            configuration: ControllerConfiguration(
                concurrency: Self.passesLimit,
                passLimit: parts.pace.passLimit,
                drainLimit: .seconds(20),
                resyncInterval: parts.pace.resyncInterval,
                backoff: Backoff(first: .milliseconds(500), cap: .seconds(15))
            ),
            logger: parts.logger,
            sources: [
                Source("volume rows") { signal in
                    for await change in changes { signal(change.map { .key($0) } ?? .resync) }
                },
                Source("sandboxes") { signal in for await volume in parts.volumeDesk.wakes { signal(.key(volume)) } },
            ],
            listKeys: { try await surveyOnce() },
            reconcile: { try await reconciler.reconcile($0) }
        )
        await withDiscardingTaskGroup { group in
            group.addTask { await keepWorking(work) }
            group.addTask { await VolumeBrake(parts: parts, host: host).run() }
            await controller.run()
            group.cancelAll()
        }
    }

    // MARK: - Survey

    /// Every volume that rows or this host know of. Slots of containers that are gone are removed on the way.
    private func surveyOnce() async throws -> [VolumeID] {
        let users = try await parts.queries.volumeUsers()
        let reported = try await parts.queries.mounts().map(\.volume)
        let kept = Set(users.flatMap(\.slots))
        let strays = try await host.slots().filter { !kept.contains($0) && !parts.holdings.isHeld($0.sandbox) }
        if !strays.isEmpty {
            parts.logger.notice("slots of volumes are removed", metadata: ["slot.count": "\(strays.count)"])
            try await host.removeSlots(strays)
        }
        return Array(Set(users.flatMap { $0.volumes.map(\.volumeId) }).union(reported).union(try await host.traces()))
    }

    // MARK: - Work in S3

    /// Several at a time: what takes long (a volume of a million files goes) keeps none that is made waiting.
    private func keepWorking(_ wakes: AsyncStream<Void>) async {
        await withDiscardingTaskGroup { group in
            let (merged, merge) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
            group.addTask { for await wake in wakes { merge.yield(wake) } }
            group.addTask {
                repeat { merge.yield() } while (try? await Task.sleep(for: Self.workInterval)) != nil
            }
            for _ in 0..<Self.workersLimit { group.addTask { for await _ in merged { await workOff() } } }
        }
    }

    /// Until nothing is left to be claimed.
    private func workOff() async {
        do {
            while let volume = try await parts.queries.claimVolumeWork(atMost: 1).first { try await work(on: volume) }
        } catch {
            if !Task.isCancelled {
                parts.logger.warning("volumes cannot be worked on", metadata: ["error": "\(error)"])
            }
        }
    }

    private func work(on volume: VolumeID) async throws {
        guard let wish = try await parts.queries.wish(of: volume) else { return }
        do {
            switch wish {
            case .ready: try await host.rclone.ensureBucket()
            case .deleted: try await host.rclone.purge(volume)
            }
            try await parts.queries.finishVolumeWork(volume, wish: wish, trouble: nil)
            parts.logger.info("volume is \(wish.rawValue)", metadata: ["volume.id": "\(volume)"])
        } catch {
            try Task.checkCancellation()
            let reason = "\((error as? RunnerError)?.message ?? "\(error)") (S3 \(host.rclone.storage.endpoint))"
            parts.logger.warning(
                "volume cannot be \(wish.rawValue)",
                metadata: ["volume.id": "\(volume)", "error": "\(reason)"]
            )
            try await parts.queries.finishVolumeWork(volume, wish: wish, trouble: reason)
        }
    }
}

extension VolumeUser {
    var slots: [VolumeSlot] { volumes.indices.map { VolumeSlot(sandbox: sandbox, epoch: epoch, index: $0) } }
}
