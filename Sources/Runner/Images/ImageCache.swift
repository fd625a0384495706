import Docker
import Domain
import FoundationEssentials
import Logging
import Store
import Synchronization

/// Keeps this host's images of the internal registry to what is of use: fetches what active snapshots of the region ask for, lets
/// go of what nothing is for, and makes room when the disk fills. Images of other names are the operator's, and left alone.
final class ImageCache: Sendable {
    /// Longer than any job of a snapshot may take.
    private static let pushingLimit: Duration = .seconds(2 * 3600)
    /// Most images that are fetched early.
    static let prefetchLimit = 100

    private let parts: RunnerParts
    private let registry: RegistryAccess
    private let region: String
    /// Its time begins anew when it has been pushed.
    private struct Subject: Hashable {
        var id: String
        var isPushed: Bool

        init(_ image: ImageSummary, _ digests: [String]) {
            id = image.id
            isPushed = !digests.isEmpty
        }
    }
    /// Since when nothing has been for an image that is here.
    private let unwantedSince = Mutex<[Subject: Duration]>([:])

    init(_ parts: RunnerParts, registry: RegistryAccess, region: String) {
        self.parts = parts
        self.registry = registry
        self.region = region
    }

    /// Turns now and then, and when snapshots change, until its task is cancelled.
    func run(wakes: AsyncStream<Void>) async {
        let (turns, turn) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let (earlyTurns, earlyTurn) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let wake: @Sendable () -> Void = {
            turn.yield()
            earlyTurn.yield()
        }
        await withDiscardingTaskGroup { group in
            group.addTask { for await _ in wakes { wake() } }
            group.addTask {
                for await _ in self.parts.room.calls {
                    await self.attempt("room") { try await self.evictOnce(above: self.parts.pace.diskLowPercent) }
                }
            }
            group.addTask {
                repeat { wake() } while (try? await Task.sleep(for: self.parts.pace.cacheInterval)) != nil
            }
            // By themselves: one may take long.
            group.addTask {
                for await _ in earlyTurns { await self.attempt("prefetches") { try await self.prefetch() } }
            }
            group.addTask {
                for await _ in turns {
                    await self.attempt("loans") { try await self.parts.loans.giveBackOnce() }
                    await self.attempt("steps") { try await BuildRemains.removeOnce(self.parts) }
                    await self.attempt("evictions") { try await self.evictOnce(above: self.parts.pace.diskHighPercent) }
                    await self.attempt("discarded") { try await self.sweepRegistryOnce() }
                }
            }
        }
    }

    /// Each by itself: one that fails keeps no other from being done, and is done at the next turn.
    private func attempt(_ what: String, _ body: () async throws -> Void) async {
        do {
            try await body()
        } catch {
            if Task.isCancelled { return }
            parts.logger.warning(
                "the image cache's turn failed",
                metadata: ["cache.part": "\(what)", "error": "\(error)"]
            )
        }
    }

    // MARK: - Early

    /// Fetches what the region's snapshots ask for, one after the other and the one that was used last first, while the disk has
    /// room. What does not come is tried again at the next turn.
    func prefetch() async throws {
        var tried: Set<String> = []
        while let image = try await firstMissing(except: tried) {
            if let used = await diskUsedPercent(), used >= parts.pace.diskLowPercent { return }
            try Task.checkCancellation()
            tried.insert(image)
            _ = await parts.puller.prefetch(image)
        }
    }

    private func firstMissing(except tried: Set<String>) async throws -> String? {
        let wanted = try await parts.queries.imagesToPrefetch(
            in: region,
            architecture: parts.blueprint.host.architecture,
            limit: Self.prefetchLimit
        ).filter { !tried.contains($0) }
        guard !wanted.isEmpty else { return nil }
        let here = Set(ImageShelf.names(try await parts.engine.listImages(), registry: registry))
        return wanted.first { !here.contains($0) }
    }

    // MARK: - Late

    /// Lets go of what may go, for room if the disk is fuller than `percent`.
    func evictOnce(above percent: Int) async throws {
        let images = try await observe()
        let usage = await parts.blueprint.host.diskUsage()
        let isTooFull = usage.map { $0.percent >= percent } ?? false
        let excess = isTooFull ? usage?.excessBytes(above: parts.pace.diskLowPercent) ?? 0 : 0
        let plan = planEvictions(images, grace: parts.pace.cacheGrace, excessBytes: excess)
        for image in plan.unwanted { try await remove(image, "nothing is for it") }
        for image in plan.forRoom { try await remove(image, "the disk is \(usage.map { "\($0)" } ?? "")") }
    }

    private func observe() async throws -> [CachedImage] {
        let own = try await parts.engine.listImages().compactMap { summary -> (ImageSummary, [String], [String])? in
            let tags = summary.repositoryTags.filter { $0.hasPrefix("\(registry.host)/") }
            let digests = summary.repositoryDigests.filter { $0.hasPrefix("\(registry.host)/") }
            return tags.isEmpty && digests.isEmpty ? nil : (summary, tags, digests)
        }
        let names = own.flatMap { $0.2.compactMap { registry.internalName(of: $0) } }
        let wanted = try await parts.queries.wantedImages(among: names)
        let used = Set(try await parts.engine.listContainers(labels: [:]).map(\.imageID))
        let here = Set(own.map { Subject($0.0, $0.2) })
        unwantedSince.withLock { since in since = since.filter { here.contains($0.key) } }
        return own.map { image, tags, digests in
            let lastUsed = digests.compactMap { registry.internalName(of: $0).flatMap { wanted[$0] } }.max()
            let subject = Subject(image, digests)
            let original = tags.lazy.compactMap { PlainImages.original(ofTwin: $0, at: self.registry.host) }.first
            let unwanted = unwantedFor(subject, isWanted: lastUsed != nil)
            return CachedImage(
                id: image.id,
                // The last tag of a repository takes its digests with it.
                references: tags + digests,
                sizeBytes: image.sizeBytes,
                lastUsed: lastUsed,
                // What has no digest there is being pushed, or its pushing was given up; but for twins, which never are.
                isInUse: used.contains(image.id)
                    || !subject.isPushed && original == nil && unwanted < Self.pushingLimit,
                unwantedFor: unwanted,
                original: original
            )
        }
    }

    private func unwantedFor(_ subject: Subject, isWanted: Bool) -> Duration {
        let now = parts.now()
        return unwantedSince.withLock { since in
            if isWanted {
                since[subject] = nil
                return .zero
            }
            let began = since[subject] ?? now
            since[subject] = began
            return now - began
        }
    }

    /// Not by force: the engine refuses where a container that came meanwhile is of it.
    private func remove(_ image: CachedImage, _ why: String) async throws {
        parts.logger.info("an image is let go of", metadata: ["image.id": "\(image.id)", "image.why": "\(why)"])
        for reference in image.references {
            do {
                try await parts.engine.removeImage(reference)
            } catch let error as DockerError where error.kind == .notFound {
                // Gone with the one before.
            } catch let error as DockerError where error.kind == .conflict {
                return
            }
        }
    }

    private func diskUsedPercent() async -> Int? { await parts.blueprint.host.diskUsage()?.percent }

    // MARK: - In the registry

    private static let sweepLease: Duration = .seconds(300)
    private static let sweepsLimit = 20

    /// Removes manifests of discarded repositories that neither a snapshot nor a living sandbox needs. Their layers go with the
    /// registry's own garbage collection (`ops/stack/registry collect`).
    func sweepRegistryOnce() async throws {
        for _ in 0..<Self.sweepsLimit {
            guard let repository = try await parts.queries.claimDiscarded(for: Self.sweepLease) else { return }
            try await sweep(repository)
        }
    }

    private func sweep(_ repository: String) async throws {
        let client = RegistryClient(access: registry)
        var digests: Set<String> = []
        for tag in try await client.tags(of: repository) {
            if let digest = try await client.digest(of: tag, in: repository) { digests.insert(digest) }
        }
        var isAllGone = true
        for digest in digests {
            // Asked anew for each: a job may have begun, or have recorded it.
            let name = InternalImage(repository: repository, digest: digest).description
            if try await parts.queries.imagesInUse(among: [name]).isEmpty {
                try await client.delete(digest, in: repository)
            } else {
                isAllGone = false
            }
        }
        try await parts.queries.settleDiscarded(repository, isAllGone: isAllGone)
    }
}
