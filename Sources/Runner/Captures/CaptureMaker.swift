import Docker
import Domain
import FoundationEssentials
#if canImport(Glibc)
    import Glibc
#endif
import Logging
import NIOPosix
import Reconciling
import Store
import Synchronization

/// Makes an image of a sandbox's files: freezes them, reads what differs from the sandbox's image, loads that as a layer upon it,
/// and pushes the image into the internal registry. Safe to repeat from any point: each try freezes anew.
///
/// The sandbox stands still only while its files are frozen, which is a moment however many they are; or, where the engine's
/// storage driver cannot copy them in a moment, while they are read.
struct CaptureMaker: Sendable {
    private let parts: RunnerParts
    private let maker: SnapshotMaker
    private let threads: NIOThreadPool

    /// - Parameter threads: of its own, since reading a tree takes long.
    init(parts: RunnerParts, maker: SnapshotMaker, threads: NIOThreadPool) {
        self.parts = parts
        self.maker = maker
        self.threads = threads
    }

    /// Makes it. Throws what went wrong; `position` says in which step.
    func make(_ job: SnapshotJob, _ position: SnapshotMaker.Position) async throws -> FinishedSnapshot {
        guard let order = job.capture else { preconditionFailure("a capture has an order") }
        _ = position.enter(.read)
        let store = try layerStore()
        let container = try await container(of: order)
        guard container.volumePoints.isEmpty else {
            throw CaptureRefused(
                "its container was made when Martlet still left VOLUME \(container.volumePoints.sorted().joined(separator: ", ")) of its image to the engine, and what is there is no part of the sandbox's own files: it would be lost; copy it into a new sandbox of the same image, where that is a folder like any other"
            )
        }
        let base = try await blocking { try CapturedImage(of: store.configuration(ofImage: container.imageID)) }
        let file = try layerPath(of: job)
        defer { unlink(file) }
        let room = CaptureRoom(layers: try layerFolder(), engine: parts.blueprint.host.dataRoot)
        try await blocking { try room.judge(before: store.ownBytes(of: container.id, madeOf: base)) }
        let layer = try await read(container, upon: base, to: file, for: job, order, store)
        try await FaultPoint.hit("capture-read")
        _ = position.enter(.load)
        try await blocking { try room.judge(beforeLoading: layer.bytes) }
        let image = try await load(layer, upon: base, from: file, for: job, order)
        try await FaultPoint.hit("capture-loaded")
        let finished = try await maker.store(image, for: job, position)
        try await FaultPoint.hit("capture-pushed")
        if order.purpose == .backup { await letGo(of: image) }
        return finished
    }

    /// Removes what a former process left. Before the first capture.
    func sweep() async {
        guard let store = try? layerStore(), let folder = try? layerFolder() else { return }
        _ = try? await blocking {
            store.removeFrozen(beginningWith: frozenPrefix)
            for name in try FileManager.default.contentsOfDirectory(atPath: folder) { unlink("\(folder)/\(name)") }
        }
    }

    private func layerStore() throws -> LayerStore {
        let host = parts.blueprint.host
        return try LayerStore(driver: host.engine.storageDriver, dataRoot: host.dataRoot)
    }

    private func container(of order: CaptureOrder) async throws -> ContainerInspection {
        do {
            return try await parts.engine.inspectContainer(ContainerName.of(order.sandbox, epoch: order.epoch))
        } catch let error as DockerError where error.kind == .notFound {
            throw CaptureTrouble(
                "the sandbox has no container on this runner, and so none of its files; when it is started, it comes back from its last backup, or as its snapshot is",
                .doubtful
            )
        }
    }

    // MARK: - Files

    /// Other runners of this host have others.
    private var frozenPrefix: String { "\(String("\(parts.identity)".prefix(8)))-" }

    private func layerFolder() throws -> String {
        let folder = "\(parts.stateDirectory)/captures"
        guard mkdir(folder, 0o700) == 0 || errno == EEXIST else {
            throw CaptureTrouble("cannot make the directory \(folder): \(words(errno))")
        }
        return folder
    }

    /// Each try has its own: one that was taken over may be reading still.
    private func tryName(of job: SnapshotJob) -> String { "\(job.snapshot)-\(job.epoch)" }

    private func layerPath(of job: SnapshotJob) throws -> String { "\(try layerFolder())/\(tryName(of: job)).tar" }

    private func read(
        _ container: ContainerInspection,
        upon image: CapturedImage,
        to file: String,
        for job: SnapshotJob,
        _ order: CaptureOrder,
        _ store: LayerStore
    ) async throws -> (digest: String, bytes: Int64) {
        let name = "\(frozenPrefix)\(tryName(of: job))"
        let countsBase = store.freezesCopies && parts.blueprint.host.diskNote == nil
        let disk = Int64(order.diskGib) << 30
        // What is restored must fit that disk with the file system's own records, which its quota counts too.
        let limits = CaptureLimits(contentBytes: countsBase ? disk - disk / 64 : disk, countsBase: countsBase)
        let cancelled = Atomic(false)
        let freeze = { @Sendable in try store.freeze(container: container.id, as: name, madeOf: image) }
        let write = { @Sendable (frozen: FrozenFiles, isLate: @escaping @Sendable () -> Bool) in
            try TreeCapture.write(
                frozen,
                to: file,
                skipping: SkippedPaths(mountPoints: container.mountPoints),
                limits: limits,
                isCancelled: { cancelled.load(ordering: .relaxed) || isLate() }
            )
        }
        return try await withTaskCancellationHandler {
            guard store.freezesCopies else {
                return try await readInPlace(container) { isLate in try write(freeze(), isLate) }
            }
            let frozen = try await standingStill(container) { try await blocking(freeze) }
            return try await blocking {
                defer { try? store.remove(frozen: name) }
                return try write(frozen, { false })
            }
        } onCancel: {
            cancelled.store(true, ordering: .relaxed)
        }
    }

    /// A running sandbox stands still for so long at most while its files are read where they are.
    private static let stillLimit: Duration = .seconds(60)

    /// Reads files that are no copy: throws unless they have stood still all the time.
    ///
    /// - Parameter read: throws `CancellationError` once what it is given says so.
    private func readInPlace<Value: Sendable>(
        _ container: ContainerInspection,
        _ read: @escaping @Sendable (_ isLate: @escaping @Sendable () -> Bool) throws -> Value
    ) async throws -> Value {
        try await standingStill(container) {
            let before = try await parts.engine.inspectContainer(container.id)
            guard before.state.status != .running else { throw CaptureTrouble("the sandbox cannot be paused") }
            let end = before.state.status == .paused ? ContinuousClock.now + Self.stillLimit : nil
            let isLate = { @Sendable in end.map { .now > $0 } ?? false }
            let value = try await blocking {
                do {
                    return try read(isLate)
                } catch is CancellationError where isLate() {
                    throw CaptureRefused(
                        "its changed files cannot be read within the \(Self.stillLimit.components.seconds) seconds for which a sandbox on the storage driver overlay2 is held up; stop the sandbox first, or remove some"
                    )
                }
            }
            let after = try await parts.engine.inspectContainer(container.id)
            guard after.state.status == before.state.status, after.run == before.run else {
                throw CaptureTrouble("the sandbox was started or stopped while its files were read")
            }
            return value
        }
    }

    /// Runs `body` while the sandbox does nothing. In a task of its own, which nothing cuts off: what it has paused, it resumes.
    private func standingStill<Value: Sendable>(
        _ container: ContainerInspection,
        _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        guard parts.pauses.hold(container.id) else {
            throw CaptureTrouble("the sandbox is being captured already")
        }
        return try await Task {
            defer { parts.pauses.release(container.id) }
            let isPaused = try await pause(container)
            do {
                let value = try await body()
                if isPaused { await resume(container.id) }
                return value
            } catch {
                if isPaused { await resume(container.id) }
                throw error
            }
        }.value
    }

    /// False when there is nothing to pause.
    private func pause(_ container: ContainerInspection) async throws -> Bool {
        guard container.state.status == .running || container.state.status == .paused else { return false }
        do {
            try await parts.engine.pauseContainer(container.id)
            try await FaultPoint.hit("capture-paused")
            return true
        } catch let error as DockerError where error.kind == .conflict {
            // It has stopped, or was paused already: by a process that died at it. While it is held here, no pass of its sandbox
            // resumes it.
            return try await parts.engine.inspectContainer(container.id).state.status == .paused
        } catch {
            // Whether it was paused is not known.
            await resume(container.id)
            throw error
        }
    }

    private static let resumesLimit = 60

    private func resume(_ container: String) async {
        for _ in 0..<Self.resumesLimit {
            do {
                return try await parts.engine.resumeContainer(container)
            } catch let error as DockerError where error.kind == .notFound {
                return
            } catch {
                try? await Task.sleep(for: .milliseconds(500))
            }
        }
        parts.logger.error("a captured container cannot be resumed", metadata: ["container.id": "\(container)"])
    }

    // MARK: - Image

    private func load(
        _ layer: (digest: String, bytes: Int64),
        upon base: CapturedImage,
        from file: String,
        for job: SnapshotJob,
        _ order: CaptureOrder
    ) async throws -> ImageInspection {
        let configuration = try base.configuration(adding: layer.digest, isBackup: order.purpose == .backup)
        let archive = try ImageArchive(
            configuration,
            named: maker.loadingName(of: job),
            layersBelow: base.base.count,
            FileChunks(file: file, bytes: layer.bytes, threads: threads)
        )
        try await parts.engine.loadImages(
            archive,
            bytes: archive.bytes,
            within: min(parts.pace.snapshotPullLimit, job.timeLeft)
        )
        return try await parts.engine.inspectImage(archive.image)
    }

    /// Nothing starts from a backup here before its sandbox was archived, and then it is pulled.
    private func letGo(of image: ImageInspection) async {
        let names = (try? await parts.engine.inspectImage(image.id))?.repositoryTags ?? []
        for name in names { try? await parts.engine.removeImage(name) }
    }

    private func blocking<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await threads.runIfActive(body)
    }
}
