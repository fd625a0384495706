package import Domain
package import Postgres

/// A snapshot's job that a runner has claimed.
package struct SnapshotJob: Sendable {
    package let snapshot: SnapshotID
    /// Fencing token of the claim; everything written for the job carries it.
    package let epoch: Int64
    package let kind: SnapshotJobKind
    package let organization: OrganizationID?
    /// For a pull.
    package let imageName: String?
    /// For a build.
    package let buildInfo: JSONText?
    /// How often in a row it has failed of ``failing`` before.
    package let failures: Int
    /// The cause of that; nil where all failures are counted together.
    package let failing: SnapshotFailureCause?
    /// Until the job fails by itself.
    package let timeLeft: Duration
    /// For a capture.
    package let capture: CaptureOrder?

    init(_ row: Row) throws {
        snapshot = try row["snapshot_id"]
        epoch = try row["epoch"]
        kind = try row["kind"]
        organization = try row["organization_id"]
        imageName = try row["image_name"]
        buildInfo = try row["build_info"]
        failures = try row["failures"]
        // Who waits for a capture is held up by it, whatever the cause.
        failing = kind == .capture ? nil : try row["failing"]
        timeLeft = .seconds(try row["seconds_left"] as Double)
        capture = kind == .capture ? try CaptureOrder(row) : nil
    }
}

/// What became of a job that went well.
package struct FinishedSnapshot: Sendable, Hashable {
    package var image: InternalImage
    /// `x86_64` or `aarch64`.
    package var architecture: String
    /// What the image starts with by itself; nil if with nothing.
    package var entrypoint: [String]?
    package var sizeBytes: Int64

    package init(image: InternalImage, architecture: String, entrypoint: [String]?, sizeBytes: Int64) {
        self.image = image
        self.architecture = architecture
        self.entrypoint = entrypoint
        self.sizeBytes = sizeBytes
    }
}

/// How far a job, or a pull, is.
package struct TransferProgress: Sendable, Hashable {
    package var doneBytes: Int64
    /// Of what is known so far.
    package var totalBytes: Int64

    package init(doneBytes: Int64 = 0, totalBytes: Int64 = 0) {
        self.doneBytes = doneBytes
        self.totalBytes = totalBytes
    }
}

/// How a registry is asked: with which login, still sealed, and trusting what.
package struct SealedLogin: Sendable {
    package let registry: RegistryID
    package let host: String
    package let username: String
    /// nil to ask as nobody.
    package let password: SealedSecret?
    /// As its row says.
    package let trust: RegistryTrust
    /// That, or what the operator says for everybody.
    package let effectiveTrust: RegistryTrust

    /// What the password is sealed for.
    package var place: String { RegistryRecord.place(of: registry, host: host, trust: trust) }

    init(_ row: Row) throws {
        registry = try row["id"]
        host = try row["host"]
        username = try row["username"]
        password = try row.decode("sealed_password", as: [UInt8]?.self).map(SealedSecret.init(bytes:))
        trust = try RegistryTrust(row)
        let everybodys: String? = try row["everybodys_authorities"]
        effectiveTrust = trust == .system ? everybodys.map(RegistryTrust.authorities) ?? .system : trust
    }
}

// Jobs of snapshots. The functions look at the login: a runner holds only what it claimed.
extension RunnerQueries {
    /// Begins, or takes over, the job that has waited longest; nil when there is none for this runner.
    package func claimSnapshotJob(_ kinds: [SnapshotJobKind], for lease: Duration) async throws -> SnapshotJob? {
        try await client.queryFirst(
            "SELECT * FROM claim_snapshot_job(\(kinds.map(\.rawValue)), \(lease.wholeSeconds))"
        ).map(SnapshotJob.init)
    }

    /// A former process of this runner is at none of its jobs any more. For the start, before the first claim.
    package func releaseSnapshotJobs() async throws {
        _ = try await client.query("SELECT release_snapshot_jobs()")
    }

    /// Keeps the job for another `lease` and tells how far it is. False when it is held no longer.
    package func hold(_ job: SnapshotJob, for lease: Duration, step: String, progress: TransferProgress?) async throws
        -> Bool
    {
        try await client.queryFirst(
            """
            SELECT hold_snapshot_job(\(job.snapshot), \(job.epoch), \(lease.wholeSeconds), \(step), \(progress?.doneBytes),
                \(progress?.totalBytes)) AS held
            """
        ).map { try $0["held"] } ?? false
    }

    /// The image is in the internal registry; sandboxes may start from it. False when the job is held no longer.
    package func finish(_ job: SnapshotJob, _ made: FinishedSnapshot) async throws -> Bool {
        try await client.queryFirst(
            """
            SELECT finish_snapshot_job(\(job.snapshot), \(job.epoch), \(made.image.description), \(made.architecture),
                \(made.entrypoint), \(made.sizeBytes)) AS finished
            """
        ).map { try $0["finished"] } ?? false
    }

    /// The job failed: for good, or to be tried again after `pause`. False when it is held no longer.
    ///
    /// - Parameter cause: failures of the same one in a row are counted; nil counts all together.
    package func fail(
        _ job: SnapshotJob,
        of cause: SnapshotFailureCause? = nil,
        reason: String,
        retryAfter pause: Duration?
    ) async throws -> Bool {
        try await client.queryFirst(
            """
            SELECT fail_snapshot_job(\(job.snapshot), \(job.epoch), \(cause), \(reason), \(pause?.wholeSeconds)) AS failed
            """
        ).map { try $0["failed"] } ?? false
    }

    /// Login and trust for an image of a job that is held; nil if nothing is known of that registry.
    package func registryLogin(_ job: SnapshotJob, for image: ImageName) async throws -> SealedLogin? {
        try await client.queryFirst(
            "SELECT * FROM registry_login(\(job.snapshot), \(job.epoch), \(image.host), \(image.repository))"
        ).map(SealedLogin.init)
    }

    /// The internal registry lacks this image: its snapshots are made anew. Returns how many.
    package func reportLost(_ image: InternalImage) async throws -> Int {
        try await client.queryFirst("SELECT snapshot_image_lost(\(image.description)) AS changed").map {
            try $0["changed"]
        } ?? 0
    }
}
