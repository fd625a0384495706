import Docker
import Domain
import Logging
import NIOPosix
import Store
import Synchronization

/// Makes the image of one snapshot: pulls what its name says, looks whether sandboxes can start from it, and pushes it into the
/// internal registry, from where every runner has it. Safe to repeat from any point: names are the same each time, and what is
/// there already is not sent again.
struct SnapshotMaker: Sendable {
    let parts: RunnerParts
    let registry: RegistryAccess
    let loans: ImageLoans

    /// Where a job is, for its heartbeat.
    final class Position: Sendable {
        private let state: Mutex<(step: SnapshotStep, meter: PullMeter)>

        init(_ kind: SnapshotJobKind) {
            let first: SnapshotStep =
                switch kind {
                case .pull: .pull
                case .build: .build
                case .capture: .read
                }
            state = Mutex((first, PullMeter()))
        }

        var now: (step: SnapshotStep, meter: PullMeter) { state.withLock { $0 } }
        func enter(_ step: SnapshotStep) -> PullMeter {
            let meter = PullMeter()
            state.withLock { $0 = (step, meter) }
            return meter
        }
    }

    /// Makes it. Throws what went wrong; `position` says in which step.
    func make(_ job: SnapshotJob, _ position: Position) async throws -> FinishedSnapshot {
        try await withImage(try ImageName(parsing: job.imageName ?? ""), for: job, position) { _, image in
            try await store(image, for: job, position)
        }
    }

    /// Runs `body` while the image that its registry has under this name now is on this host's engine, where it is known by
    /// the name that `body` is given and by no other that the host has.
    func withImage<Value: Sendable>(
        _ name: ImageName,
        for job: SnapshotJob,
        _ position: Position,
        _ body: (String, ImageInspection) async throws -> Value
    ) async throws -> Value {
        guard name.host != registry.host else {
            throw UnusableImage(
                description: "'\(name.host)' is Martlet's own registry; name an image that is elsewhere"
            )
        }
        let meter = position.enter(.pull)
        let access = try await access(to: name, job)
        guard access.trust == .system else { return try await withForeignImage(name, access, for: job, body) }
        let source = try await resolve(name, access.credentials)
        return try await loans.borrowing(source) {
            try await body(source, try await pull(source, access.credentials, job, meter))
        }
    }

    /// The same, of a registry that the engine does not trust.
    private func withForeignImage<Value: Sendable>(
        _ name: ImageName,
        _ access: Skopeo.Access,
        for job: SnapshotJob,
        _ body: (String, ImageInspection) async throws -> Value
    ) async throws -> Value {
        let found = try await skopeo.find(name, access)
        try parts.pace.requireSmall(found.sizeBytes)
        // As an archive, and in the engine.
        let needed = 2 * found.sizeBytes
        try await NIOThreadPool.singleton.runIfActive { [parts] in
            try CaptureRoom.judge(parts.stateDirectory, before: needed)
        }
        // Of Martlet's registry, where it never comes: what a runner that was killed leaves is the cache's to remove.
        let source = "\(registry.host)/borrowed/\(job.snapshot):\(found.digest.split(separator: ":").last ?? "")"
        return try await loans.borrowing(source) {
            let limit = min(parts.pace.snapshotPullLimit, job.timeLeft)
            try await skopeo.fetch(found, access, tagged: source, within: limit) { archive in
                try await parts.engine.loadImages(archive, bytes: archive.bytes, within: limit)
            }
            return try await body(source, try await inspect(source))
        }
    }

    private var skopeo: Skopeo {
        Skopeo(
            stateDirectory: parts.stateDirectory,
            architecture: parts.blueprint.host.architecture,
            imageBytesLimit: parts.pace.imageBytesLimit
        )
    }

    /// What a runner that was killed in the midst of it has left. Nothing is made yet.
    func sweep() async {
        let skopeo = skopeo
        try? await NIOThreadPool.singleton.runIfActive { skopeo.sweep() }
    }

    /// The image is in the internal registry afterwards.
    func store(_ image: ImageInspection, for job: SnapshotJob, _ position: Position) async throws -> FinishedSnapshot {
        _ = position.enter(.inspect)
        let architecture = try usableArchitecture(of: image)
        try parts.pace.requireSmall(image.sizeBytes)
        let digest = try await push(image, job, position.enter(.push))
        let start = image.entrypoint + image.command
        return FinishedSnapshot(
            image: InternalImage(repository: InternalImage.repository(of: job.snapshot), digest: digest),
            architecture: architecture,
            entrypoint: start.isEmpty ? nil : start,
            sizeBytes: image.sizeBytes
        )
    }

    /// How the organization asks the registry that the name says: where nothing is known of it as nobody, trusting as the host does.
    private func access(to name: ImageName, _ job: SnapshotJob) async throws -> Skopeo.Access {
        guard let login = try await parts.queries.registryLogin(job, for: name) else {
            return Skopeo.Access(trust: .system)
        }
        return Skopeo.Access(credentials: try credentials(login), trust: login.effectiveTrust)
    }

    private func credentials(_ login: SealedLogin) throws -> RegistryCredentials? {
        guard let password = login.password else { return nil }
        guard let secrets = parts.secrets else {
            throw SecretBox.Failure(
                description: "this runner has no MARTLET_SECRETS_KEY to open the login of \(login.host) with"
            )
        }
        return RegistryCredentials(
            username: login.username,
            password: try secrets.open(password, for: login.place),
            serverAddress: login.host == ImageName.dockerHub ? "https://index.docker.io/v1/" : login.host
        )
    }

    /// Always asks the registry, also for what this host has: whether this organization may have it is the registry's to say,
    /// and a pull by digest alone would not ask. By digest no name of this host's comes to mean another image.
    private func resolve(_ name: ImageName, _ credentials: RegistryCredentials?) async throws -> String {
        let digest = try await parts.engine.distributionDigest(name.description, credentials: credentials)
        return "\(name.host)/\(name.repository)@\(digest)"
    }

    private func pull(_ source: String, _ credentials: RegistryCredentials?, _ job: SnapshotJob, _ meter: PullMeter)
        async throws -> ImageInspection
    {
        let pace = parts.pace
        try await parts.engine.pullImage(
            source,
            credentials: credentials,
            within: min(parts.pace.snapshotPullLimit, job.timeLeft)
        ) { progress in
            meter.note(progress)
            try pace.requireSmall(meter.progress.totalBytes)
        }
        return try await inspect(source)
    }

    private func inspect(_ source: String) async throws -> ImageInspection {
        let image = try await parts.engine.inspectImage(source)
        try parts.pace.requireSmall(image.sizeBytes)
        return image
    }

    private func usableArchitecture(of image: ImageInspection) throws -> String {
        let own = parts.blueprint.host.architecture
        guard image.operatingSystem == "linux" else {
            throw UnusableImage(description: "the image is for '\(image.operatingSystem)'; sandboxes run linux")
        }
        let names = ["amd64": "x86_64", "arm64": "aarch64"]
        guard let architecture = names[image.architecture], architecture == own else {
            throw UnusableImage(
                description: "the image is for \(image.architecture), this runner is \(own); use an image that has it"
            )
        }
        return architecture
    }

    /// What the image of a job is called on this host until it is pushed under its content's tag; of Martlet's registry, so that
    /// the cache lets go of it in time.
    func loadingName(of job: SnapshotJob) -> String { "\(registry.repository(of: job.snapshot)):captured" }

    /// The tag is the content's, so that a former content of the snapshot keeps its own while sandboxes need it.
    private func push(_ image: ImageInspection, _ job: SnapshotJob, _ meter: PullMeter) async throws -> String {
        let repository = registry.repository(of: job.snapshot)
        let tag = "i" + image.id.split(separator: ":").last!.prefix(24)  // an id has at least one part
        try await parts.engine.tagImage(image.id, repository: repository, tag: tag)
        return try await parts.engine.pushImage(
            repository: repository,
            tag: tag,
            credentials: registry.credentials,
            within: min(parts.pace.snapshotPullLimit, job.timeLeft)
        ) { meter.note($0) }
    }
}

extension RunnerPace {
    /// Throws ``UnusableImage`` for an image that is larger than this runner takes.
    fileprivate func requireSmall(_ bytes: Int64) throws {
        guard bytes > imageBytesLimit else { return }
        throw UnusableImage(
            description:
                "the image has \(bytes >> 20) MiB or more; the limit of this runner is \(imageBytesLimit >> 20) MiB. Make it smaller"
        )
    }
}
