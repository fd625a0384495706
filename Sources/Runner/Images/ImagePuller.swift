package import Docker
package import Domain
package import Logging
import Synchronization

/// Fetches images outside of passes, each once however many sandboxes wait for it.
package final class ImagePuller: Sendable {
    private enum Fetch {
        case underway(waiting: Set<SandboxID>)
        /// Each that waited is told once.
        case failed(DockerError, untold: Set<SandboxID>)
    }

    private let engine: DockerEngine
    private let limit: Duration
    private let concurrency: Int
    private let logger: Logger
    private let fetches = Mutex<[String: Fetch]>([:])
    private let requests: AsyncStream<String>
    private let request: AsyncStream<String>.Continuation

    /// - Parameters:
    ///   - limit: for one pull.
    ///   - concurrency: pulls at once.
    package init(engine: DockerEngine, limit: Duration, concurrency: Int, logger: Logger) {
        self.engine = engine
        self.limit = limit
        self.concurrency = concurrency
        self.logger = logger
        // Bounded by the number of different images, since each is requested once at a time.
        (requests, request) = AsyncStream.makeStream()
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
                group.addTask { for await image in self.requests { await self.pull(image, wake) } }
            }
        }
    }

    private func pull(_ image: String, _ wake: @Sendable (SandboxID) -> Void) async {
        logger.info("image is pulled", metadata: ["image.name": "\(image)"])
        var failure: DockerError?
        do {
            try await engine.pullImage(image, within: limit)
        } catch let error as DockerError {
            failure = error
            logger.warning("image could not be pulled", metadata: ["image.name": "\(image)", "error": "\(error)"])
        } catch {
            failure = DockerError(operation: "pull image \(image)", kind: .unavailable, message: "\(error)")
        }
        for sandbox in finish(image, failure) { wake(sandbox) }
    }

    private func finish(_ image: String, _ failure: DockerError?) -> Set<SandboxID> {
        fetches.withLock { fetches in
            guard case .underway(let waiting) = fetches[image] else { return [] }
            fetches[image] = failure.map { .failed($0, untold: waiting) }
            return waiting
        }
    }
}
