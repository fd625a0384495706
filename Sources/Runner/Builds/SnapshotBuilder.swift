import Docker
import Domain
import FoundationEssentials
import Logging
import NIOCore
import NIOPosix
import Postgres
import Store
import Synchronization

/// Makes the image of one snapshot from its Dockerfile: fetches the images that it begins with, has the engine build it under
/// limits and behind the floor, and pushes it into the internal registry. Safe to repeat from any point.
///
/// The engine's classic builder is used because it has limits and a network for its steps. What it would do from the host's own
/// network is kept from it: it pulls nothing, as all images are here before, and fetches no URL (``Dockerfile`` refuses `ADD` of
/// one, and bases with triggers are refused here). No login ever gets to it.
struct SnapshotBuilder: Sendable {
    let parts: RunnerParts
    let maker: SnapshotMaker
    let numbers = BuildNetworkNumbers()

    /// Makes it. Throws what went wrong; `position` says in which step.
    func make(_ job: SnapshotJob, _ position: SnapshotMaker.Position) async throws -> FinishedSnapshot {
        let definition = try definition(of: job)
        let dockerfile = Dockerfile(definition.dockerfileContent)
        guard dockerfile.problems.isEmpty else {
            throw BuildFailure("the Dockerfile \(dockerfile.problems.joined(separator: "; "))")
        }
        let log = BuildLog(queries: parts.queries, job: job, logger: parts.logger)
        let remains = BuildRemains(parts)
        return try await log.keeping {
            if try await parts.queries.hasBegun(job) { log.print("--- the build begins anew ---\n") }
            return try await withBases(dockerfile.images[...], job, position, log) { names in
                try await remains.removing {
                    let text = dockerfile.text(naming: names)
                    let id = try await build(text, definition, job, position, log, remains)
                    let image = try await parts.engine.inspectImage(id)
                    let made = try await maker.store(image, for: job, position)
                    log.print("Built, \(made.sizeBytes >> 20) MiB\n")
                    return made
                }
            }
        }
    }

    /// What a runner that was killed while it built has left. Nothing else is building yet.
    func sweep() async {
        for number in 0..<BuildNetwork.countLimit {
            do {
                // With the container of the step that it was at.
                try await BuildNetwork(parts, number: number).remove()
            } catch {
                // The next build on it tries again first.
                if !Task.isCancelled {
                    parts.logger.warning("a build network cannot be removed yet", metadata: ["error": "\(error)"])
                }
            }
        }
        do {
            try await BuildRemains.removeOnce(parts)
        } catch {
            // They stay noted, for the cache's turn.
            if !Task.isCancelled {
                parts.logger.warning("images of former builds' steps stay for now", metadata: ["error": "\(error)"])
            }
        }
    }

    private func definition(of job: SnapshotJob) throws -> BuildDefinition {
        guard let text = job.buildInfo?.text,
            let definition = try? JSONDecoder().decode(BuildDefinition.self, from: Data(text.utf8))
        else { throw BuildFailure("what it is built from is not understood by this runner") }
        return definition
    }

    // MARK: - Base images

    /// The images are here while `body` runs. It is given the names that they have here, by those that the Dockerfile says: where a
    /// registry is asked, by digest, so that nobody else's build and no name of the host's is in between.
    private func withBases<Value: Sendable>(
        _ asked: ArraySlice<String>,
        _ job: SnapshotJob,
        _ position: SnapshotMaker.Position,
        _ log: BuildLog,
        _ names: [String: String] = [:],
        _ body: ([String: String]) async throws -> Value
    ) async throws -> Value {
        guard let name = asked.first else { return try await body(names) }
        let rest = asked.dropFirst()
        if let given = try await givenImage(name) {
            try checkUsable(given, name)
            return try await withBases(rest, job, position, log, names, body)
        }
        log.print("Fetching \(name)\n")
        // Only what fetching itself throws is said of the base image.
        var isFetched = false
        do {
            return try await maker.withImage(try ImageName(parsing: name), for: job, position) { source, image in
                isFetched = true
                try checkUsable(image, name)
                return try await withBases(rest, job, position, log, names.merging([name: source]) { $1 }, body)
            }
        } catch let error as DockerError where !isFetched {
            throw DockerError(
                operation: error.operation,
                kind: error.kind,
                status: error.status,
                message: "base image \(name): \(error.message)"
            )
        }
    }

    /// What the operator gives to everybody lies in the engine under its own name, and in no registry.
    private func givenImage(_ name: String) async throws -> ImageInspection? {
        guard try await parts.queries.generalImages().contains(name) else { return nil }
        do {
            return try await parts.engine.inspectImage(name)
        } catch let error as DockerError where error.kind == .notFound {
            return nil
        }
    }

    private func checkUsable(_ image: ImageInspection, _ name: String) throws {
        guard image.buildTriggers.isEmpty else {
            throw BuildFailure(
                "the base image \(name) has triggers (ONBUILD: \(image.buildTriggers.joined(separator: "; ").prefix(200))), which are "
                    + "not supported here: begin with an image without them"
            )
        }
    }

    // MARK: - The build

    private func build(
        _ dockerfile: String,
        _ definition: BuildDefinition,
        _ job: SnapshotJob,
        _ position: SnapshotMaker.Position,
        _ log: BuildLog,
        _ remains: BuildRemains
    ) async throws -> String {
        _ = position.enter(.build)
        let context = BuildContext(
            job: job,
            dockerfile: dockerfile,
            hashes: definition.contextHashes,
            queries: parts.queries
        )
        do {
            return try await numbers.withNumber { number in
                let network = BuildNetwork(parts, number: number)
                return try await network.standing { try await run(context, on: network, job, log, remains) }
            }
        } catch let error as DockerError where error.operation == DockerEngine.buildOperation {
            if let fault = context.fault.error { throw Self.words(fault) }
            throw failure(error, log, limit: limit(of: job))
        } catch {
            throw Self.words(error)
        }
    }

    private func run(
        _ context: BuildContext,
        on network: BuildNetwork,
        _ job: SnapshotJob,
        _ log: BuildLog,
        _ remains: BuildRemains
    ) async throws -> String {
        var specification = BuildSpecification(dockerfile: BuildContext.dockerfileName, network: network.name)
        specification.memoryBytes = parts.pace.buildMemoryBytes
        specification.milliCPUs = Int64(parts.pace.buildCPUs * 1000)
        specification.cacheSources = try await parts.queries.cacheSources(of: job).map(maker.registry.reference(of:))
        let limiter = BuildStepLimiter(parts, network)
        return try await parts.engine.buildImage(context: context, specification, within: limit(of: job)) { text in
            log.print(text)
            await remains.note(text)
            if text.hasPrefix(BuildStepLimiter.announcement) { try await limiter.limit() }
        }
    }

    private func limit(of job: SnapshotJob) -> Duration { min(parts.pace.buildLimit, job.timeLeft) }

    private static func words(_ error: any Error) -> any Error {
        (error as? ArchiveProblem).map { BuildFailure("the build context \($0)") } ?? error
    }

    /// The engine's failures that the Dockerfile is at fault for are final; the others may pass.
    private func failure(_ error: DockerError, _ log: BuildLog, limit: Duration) -> any Error {
        let lines = log.tail
        let said = lines.isEmpty ? "" : "; it last said: \(lines.joined(separator: " | "))"
        switch error.kind {
        case .unavailable, .noSpace: return error
        case .timeout:
            return BuildFailure(
                "it took longer than \(limit.components.seconds / 60) minutes, the limit of this runner\(said)"
            )
        case .notFound, .conflict, .badRequest, .unauthorized, .server:
            let isKilled = error.message.contains("returned a non-zero code: 137")
            let memory = parts.pace.buildMemoryBytes >> 20
            let hint = isKilled ? " (killed: out of memory, most likely; a step may use \(memory) MiB)" : ""
            return BuildFailure("\(error.message)\(hint)\(said)")
        }
    }
}

/// Limits the steps of a build by what the builder itself has no parameters for: processes, and the disk where it can.
///
/// The engine says when it has made a step's container, just before it starts it. A step that forks in that very moment gets a
/// few processes more than it should; what it has then it may keep, and no more.
private final class BuildStepLimiter: Sendable {
    /// What the engine prints when it has made a container.
    static let announcement = " ---> Running in "

    private let parts: RunnerParts
    private let network: BuildNetwork
    private let limited = Mutex<Set<String>>([])
    /// A build that prints the announcement itself makes us look in vain, so often.
    private let looks = Mutex(0)
    private static let looksLimit = 4 * Dockerfile.instructionLimit

    init(_ parts: RunnerParts, _ network: BuildNetwork) {
        self.parts = parts
        self.network = network
    }

    func limit() async throws {
        guard
            looks.withLock({
                $0 += 1; return $0 <= Self.looksLimit
            })
        else {
            throw BuildFailure("it printed '\(Self.announcement)' more than \(Self.looksLimit) times")
        }
        for id in try await network.members() where !limited.withLock({ $0.contains(id) }) {
            try await limitProcesses(of: id)
            try await limitDisk(of: id)
            limited.withLock { _ = $0.insert(id) }
        }
    }

    private static let attempts = 3

    /// The engine refuses in the moments of a container's start and end. What has ended needs no limit.
    private func limitProcesses(of id: String) async throws {
        for attempt in 1... {
            do {
                return try await parts.engine.updateContainer(
                    id,
                    ResourceUpdate(pidsLimit: parts.blueprint.limits.pids)
                )
            } catch let error as DockerError where error.kind != .unavailable {
                guard try await isAlive(id) else { return }
                if attempt == Self.attempts { throw error }
            }
        }
    }

    private func isAlive(_ id: String) async throws -> Bool {
        do {
            switch try await parts.engine.inspectContainer(id).state.status {
            case .created, .running, .paused, .restarting: return true
            case .removing, .exited, .dead: return false
            }
        } catch let error as DockerError where error.kind == .notFound {
            return false
        }
    }

    private func limitDisk(of id: String) async throws {
        guard let quotas = parts.blueprint.host.quotas else { return }
        let bytes = parts.pace.buildDiskBytes
        do {
            try await NIOThreadPool.singleton.runIfActive { try quotas.setLimit(bytes, of: id) }
        } catch let error as RunnerError {
            guard try await isAlive(id) else { return }
            parts.logger.warning("a build's step has no disk limit", metadata: ["error": "\(error)"])
        }
    }
}
