import Docker
import Domain
import Logging
import Postgres
import Reconciling
import ServiceLifecycle
import Store

/// Everything that runs while a runner runs.
struct RunnerLoops: Sendable {
    let parts: RunnerParts
    let identity: RunnerIdentity
    let registration: RunnerRegistration
    let database: PostgresConfiguration
    let directory: StateDirectory

    /// Until graceful shutdown, or cancelled.
    func run(ingress: IngressServer, ready: @escaping @Sendable () -> Void) async throws {
        defer { parts.logger.debug("runner's loops ended") }
        try await withThrowingDiscardingTaskGroup { group in
            // It ends by itself at a graceful shutdown, once its tunnels have.
            group.addTask { try await ingress.run() }
            // Passes need the firewall until they have ended, so only they are cancelled by a graceful shutdown.
            try await withFirewall {
                try await cancelWhenGracefulShutdown { try await work(ready) }
            }
        }
        await parts.close()
    }

    private func withFirewall(_ body: @escaping @Sendable () async throws -> Void) async throws {
        try await withThrowingDiscardingTaskGroup { group in
            group.addTask { await parts.firewall.run() }
            defer { group.cancelAll() }
            try await body()
        }
    }

    private func work(_ ready: @Sendable () -> Void) async throws {
        let survey = RunnerSurvey(parts)
        try await adopt(survey)
        let lease = LeaseKeeper(
            queries: parts.queries,
            registration: registration,
            pace: parts.pace,
            logger: parts.logger
        )
        try await begin(lease)
        parts.logger.info("runner works", metadata: ["ingress.address": "\(registration.ingressAddress)"])
        ready()
        await control(survey, lease)
    }

    /// What runs already gets its rules and keeps running. Nothing else happens before that worked.
    private func adopt(_ survey: RunnerSurvey) async throws {
        var pause = Duration.milliseconds(200)
        while true {
            do {
                _ = try await survey.surveyOnce()
                await survey.wantDeep()
                return
            } catch let error as RunnerError where error.code == .misconfigured {
                throw error
            } catch {
                try Task.checkCancellation()
                parts.logger.warning("what runs already cannot be adopted yet", metadata: ["error": "\(error)"])
            }
            try await Task.sleep(for: pause)
            pause = min(pause * 2, .seconds(5))
        }
    }

    private func begin(_ lease: LeaseKeeper) async throws {
        while true {
            do {
                return try await lease.beginOnce()
            } catch {
                try Task.checkCancellation()
                parts.logger.warning("runner cannot register", metadata: ["error": "\(error)"])
            }
            try await Task.sleep(for: .seconds(1))
        }
    }

    /// The loops that cause passes, and the passes.
    private func control(_ survey: RunnerSurvey, _ lease: LeaseKeeper) async {
        let (claims, claim) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let (images, imagesChanged) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let (volumes, volumeChanged) = AsyncStream<VolumeID?>.makeStream(bufferingPolicy: .bufferingNewest(1024))
        let (volumeWork, workOnVolumes) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let snapshots = SnapshotLoops(parts, region: identity.regionID)
        let feed = RunnerFeed(database, runner: identity.id, logger: parts.logger)
        let controller = makeController(survey, feed, snapshots, claim: claim, imagesChanged: imagesChanged) { volume in
            if let volume { volumeChanged.yield(volume) } else { workOnVolumes.yield() }
        }
        let timers = TimerKeeper(queries: parts.queries, pace: parts.pace, logger: parts.logger)
        await withDiscardingTaskGroup { group in
            group.addTask { await feed.run() }
            group.addTask { await parts.puller.run { controller.enqueue($0) } }
            group.addTask { await timers.runTimers { controller.requestResync() } }
            group.addTask { await timers.runReclaims { for id in $0 { controller.enqueue(id) } } }
            group.addTask { await timers.runClaims(wakes: claims) { for id in $0 { controller.enqueue(id) } } }
            group.addTask { await keepImages(images) }
            if let host = parts.volumes {
                let keeper = VolumeKeeper(parts: parts, host: host)
                group.addTask { await keeper.run(changes: volumes, work: volumeWork) { controller.enqueue($0) } }
            }
            group.addTask { await snapshots.run() }
            group.addTask { await GarbageCollector(parts: parts, directory: directory).run() }
            group.addTask {
                await lease.run {
                    parts.shelf.forget()
                    imagesChanged.yield()
                    volumeChanged.yield(nil)
                    controller.requestResync()
                }
            }
            claim.yield()
            imagesChanged.yield()
            await controller.run()
            group.cancelAll()
        }
    }

    private func makeController(
        _ survey: RunnerSurvey,
        _ feed: RunnerFeed,
        _ snapshots: SnapshotLoops,
        claim: AsyncStream<Void>.Continuation,
        imagesChanged: AsyncStream<Void>.Continuation,
        volumes: @escaping @Sendable (VolumeID?) -> Void
    ) -> Controller<SandboxID> {
        let settings = ControllerConfiguration(
            concurrency: parts.pace.concurrency,
            passLimit: parts.pace.passLimit,
            drainLimit: .seconds(20),
            resyncInterval: parts.pace.resyncInterval,
            backoff: Backoff(first: .milliseconds(100), cap: .seconds(15))
        )
        let reconciler = SandboxReconciler(parts)
        return Controller(
            name: "sandbox",
            configuration: settings,
            logger: parts.logger,
            sources: [
                Source("rows") { signal in
                    await feed.follow { notice in
                        switch notice {
                        case .resync:
                            signal(.resync)
                            snapshots.wake()
                        case .sandbox(let id): signal(.key(id))
                        case .pending: claim.yield()
                        case .volume(let id): volumes(id)
                        case .volumeWork: volumes(nil)
                        case .snapshots: snapshots.wake()
                        }
                    }
                },
                containerEvents(survey), engineEvents(survey, imagesChanged),
            ],
            listKeys: { try await survey.surveyOnce() },
            reconcile: { try await reconciler.reconcile($0) }
        )
    }

    // MARK: - Engine

    /// What happens to containers of ours. A lost stream may have missed anything.
    private func containerEvents(_ survey: RunnerSurvey) -> Source<SandboxID> {
        Source("containers") { signal in
            let events = parts.engine.events(labels: [ContainerLabel.runner: "\(identity.id)"], kinds: [.container])
            for try await notice in events {
                switch notice {
                case .resync:
                    parts.table.forgetAll()
                    await survey.wantDeep()
                    signal(.resync)
                case .event(let event):
                    guard Self.matters(event),
                        let id = event.attributes[ContainerLabel.sandbox].flatMap({ SandboxID($0) })
                    else { continue }
                    parts.table.forget(id)
                    signal(.key(id))
                }
            }
        }
    }

    /// Events that change what a sandbox is. What a pass does to its own container comes back through here as well, and costs
    /// one pass that finds nothing to do.
    static func matters(_ event: EngineEvent) -> Bool {
        ["start", "die", "oom", "destroy", "pause", "unpause", "rename", "update"].contains(event.action)
    }

    /// What happens to images, and to our network.
    private func engineEvents(_ survey: RunnerSurvey, _ imagesChanged: AsyncStream<Void>.Continuation) -> Source<
        SandboxID
    > {
        Source("engine") { signal in
            for try await notice in parts.engine.events(kinds: [.image, .network]) {
                switch notice {
                case .resync: imagesChanged.yield()
                case .event(let event) where event.kind == .image: imagesChanged.yield()
                case .event(let event):
                    if event.action == "destroy", event.attributes["name"] == parts.network.name { signal(.resync) }
                }
            }
        }
    }

    private static let imageSettlingTime: Duration = .seconds(1)

    private func keepImages(_ changes: AsyncStream<Void>) async {
        for await _ in changes {
            do {
                try await parts.shelf.syncOnce()
            } catch {
                if Task.isCancelled { return }
                parts.logger.warning("images could not be listed", metadata: ["error": "\(error)"])
            }
            // A pull makes a dozen events.
            try? await Task.sleep(for: Self.imageSettlingTime)
        }
    }
}
