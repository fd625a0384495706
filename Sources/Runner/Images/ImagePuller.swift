package import Docker
package import Domain
package import Logging
package import Store
import Synchronization

/// Fetches images outside of passes, each once however many sandboxes wait for it, and tells the database how far it is.
package final class ImagePuller: Sendable {
    private enum Fetch {
        case underway(waiting: Set<SandboxID>)
        /// Each that waited is told once.
        case failed(DockerError, untold: Set<SandboxID>)
    }

    private let engine: DockerEngine
    private let registry: RegistryAccess?
    private let queries: RunnerQueries
    private let runner: RunnerID
    private let limit: Duration
    private let concurrency: Int
    private let logger: Logger
    private let fetches = Mutex<[String: Fetch]>([:])
    private let requests: AsyncStream<String>
    private let request: AsyncStream<String>.Continuation
    private let ended: AsyncStream<SandboxID>
    private let end: AsyncStream<SandboxID>.Continuation

    /// - Parameters:
    ///   - registry: where images of the internal registry are; nil if this runner has none.
    ///   - limit: for one pull.
    ///   - concurrency: pulls at once.
    package init(
        engine: DockerEngine,
        registry: RegistryAccess?,
        queries: RunnerQueries,
        runner: RunnerID,
        limit: Duration,
        concurrency: Int,
        logger: Logger
    ) {
        self.engine = engine
        self.registry = registry
        self.queries = queries
        self.runner = runner
        self.limit = limit
        self.concurrency = concurrency
        self.logger = logger
        // Bounded by the number of different images, since each is requested once at a time.
        (requests, request) = AsyncStream.makeStream()
        // Bounded by the number of sandboxes that wait.
        (ended, end) = AsyncStream.makeStream()
    }

    /// The image is absent and `sandbox` needs it: it is fetched, and `sandbox` is woken when that ended.
    ///
    /// Throws if it was fetched for this sandbox and that failed; the next call tries again.
    package func fetch(_ image: String, for sandbox: SandboxID) throws {
        let begins = try fetches.withLock { fetches -> Bool in
            switch fetches[image] {
            case .underway(var waiting):
                waiting.insert(sandbox)
                fetches[image] = .underway(waiting: waiting)
                return false
            case .failed(let error, var untold) where untold.remove(sandbox) != nil:
                fetches[image] = untold.isEmpty ? nil : .failed(error, untold: untold)
                throw error
            case .failed, nil:
                fetches[image] = .underway(waiting: [sandbox])
                return true
            }
        }
        if begins { request.yield(image) }
    }

    /// The image is absent and somebody may need it soon: fetches it at once, beside what sandboxes wait for, and returns when that
    /// ended. A sandbox that needs it meanwhile waits for this. False if it did not come, or is being fetched already.
    package func prefetch(_ image: String) async -> Bool {
        let begins = fetches.withLock { fetches in
            guard fetches[image] == nil else { return false }
            fetches[image] = .underway(waiting: [])
            return true
        }
        return begins ? await pull(image) : false
    }

    /// `sandbox` waits for no image any more.
    package func forget(_ sandbox: SandboxID) {
        fetches.withLock { fetches in
            for (image, fetch) in fetches {
                guard case .failed(let error, var untold) = fetch, untold.remove(sandbox) != nil else { continue }
                fetches[image] = untold.isEmpty ? nil : .failed(error, untold: untold)
            }
        }
    }

    /// Pulls what is asked for until its task is cancelled. `wake` is told each sandbox whose image has come, or has not.
    package func run(wake: @escaping @Sendable (SandboxID) -> Void) async {
        await withDiscardingTaskGroup { group in
            for _ in 0..<max(1, concurrency) {
                group.addTask { for await image in self.requests { _ = await self.pull(image) } }
            }
            group.addTask { for await sandbox in self.ended { wake(sandbox) } }
        }
    }

    /// False if it did not come.
    private func pull(_ image: String) async -> Bool {
        logger.info("image is pulled", metadata: ["image.name": "\(image)"])
        var failure: DockerError?
        do {
            try await transfer(image)
        } catch let error as DockerError {
            failure = error
            logger.warning("image could not be pulled", metadata: ["image.name": "\(image)", "error": "\(error)"])
        } catch {
            failure = DockerError(operation: "pull image \(image)", kind: .unavailable, message: "\(error)")
        }
        try? await queries.endPull(image, of: runner)
        for sandbox in finish(image, failure) { end.yield(sandbox) }
        return failure == nil
    }

    private func transfer(_ image: String) async throws {
        let (engine, limit, meter) = (engine, limit, PullMeter())
        let registry = InternalImage(image) == nil ? nil : registry
        let reference = InternalImage(image).flatMap { registry?.reference(of: $0) } ?? image
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                try await engine.pullImage(reference, credentials: registry?.credentials, within: limit) {
                    meter.note($0)
                }
            }
            // Cancelled by the end of the pull; ends by nothing else.
            group.addTask { await self.tell(image, meter) }
            defer { group.cancelAll() }
            _ = try await group.next()
        }
    }

    private static let tellInterval: Duration = .seconds(1)

    /// Writes now and then how far it is, for people. That it cannot be written keeps no image from coming.
    private func tell(_ image: String, _ meter: PullMeter) async {
        try? await queries.beginPull(image, of: runner)
        var told = TransferProgress()
        repeat {
            let now = meter.progress
            if now != told { try? await queries.notePull(image, of: runner, now) }
            told = now
        } while (try? await Task.sleep(for: Self.tellInterval)) != nil
    }

    private func finish(_ image: String, _ failure: DockerError?) -> Set<SandboxID> {
        fetches.withLock { fetches in
            guard case .underway(let waiting) = fetches[image] else { return [] }
            fetches[image] = waiting.isEmpty ? nil : failure.map { .failed($0, untold: waiting) }
            return waiting
        }
    }
}
