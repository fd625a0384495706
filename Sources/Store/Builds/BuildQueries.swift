package import Domain
import FoundationEssentials
package import Postgres

/// What an image is built from: column `snapshot.build_info`.
package struct BuildDefinition: Sendable, Hashable, Codable {
    package static let contextsLimit = 64

    package let dockerfileContent: String
    /// Each once, in order, so that equal definitions are equal texts.
    package let contextHashes: [String]

    package init(dockerfile: String, contextHashes: some Sequence<String>) {
        dockerfileContent = dockerfile
        self.contextHashes = Set(contextHashes).sorted()
    }

    /// As the column holds it.
    package var json: JSONText {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = .sortedKeys
            return JSONText(String(decoding: try encoder.encode(self), as: UTF8.self))
        }
    }
}

/// Where the log of a build is, and whether more is to come.
package struct BuildLogSource: Sendable, Hashable {
    /// Whose job prints it.
    package let builder: SnapshotID
    package let isUnderWay: Bool

    init(_ row: Row) throws {
        builder = try row["built_by"]
        isUnderWay = try (row["state"] as SnapshotState).isUnderWay
    }
}

/// Queries about images that are built, and their logs.
package struct BuildQueries: Sendable {
    let client: any PostgresClient

    /// Throws `PostgresError` of `context_is_uploaded` unless all of these were uploaded; keeps them for another week.
    package func use(_ contexts: [String], in organization: OrganizationID) async throws {
        guard !contexts.isEmpty else { return }
        _ = try await client.query("SELECT use_contexts(\(organization), \(contexts))")
    }

    /// The hidden snapshot that a sandbox made from an image starts from; by trigger also the job that makes it.
    package func requestImage(_ image: String, in region: String, of organization: OrganizationID) async throws
        -> SnapshotRecord
    {
        try await request("request_image(\(organization), \(region), \(image), NULL)", of: organization)
    }

    /// The same for what is built.
    package func requestBuild(
        _ definition: BuildDefinition,
        in region: String,
        of organization: OrganizationID
    ) async throws -> SnapshotRecord {
        try await use(definition.contextHashes, in: organization)
        return try await request(
            "request_image(\(organization), \(region), NULL, \(json: definition))",
            of: organization
        )
    }

    private func request(_ call: SQL, of organization: OrganizationID) async throws -> SnapshotRecord {
        // Two statements, since a function's own insert is not seen by the statement that calls it.
        let id: SnapshotID = try await client.queryFirst("SELECT \(call) AS id")!["id"]
        let found = try await client.queryFirst(
            "SELECT \(SnapshotRecord.columns) FROM snapshot WHERE id = \(id) AND organization_id = \(organization)"
        )
        guard let found else { throw StoreError(.changedMeanwhile, "the image was discarded while it was asked for") }
        return try SnapshotRecord(found)
    }

    /// Where the log of a snapshot's build is; nil where nothing was built.
    package func log(of snapshot: SnapshotID, in organization: OrganizationID) async throws -> BuildLogSource? {
        try await client.queryFirst(
            """
            SELECT built_by, state FROM snapshot
            WHERE id = \(snapshot) AND (organization_id = \(organization) OR general) AND build_info IS NOT NULL
            """
        ).map(BuildLogSource.init)
    }

    /// Where the log of the build of a sandbox's image is; nil where nothing was built for it.
    package func log(of sandbox: SandboxID, in organization: OrganizationID) async throws -> BuildLogSource? {
        try await client.queryFirst(
            """
            SELECT n.built_by, n.state FROM sandbox s JOIN snapshot n ON n.id = s.snapshot_id
            WHERE s.id = \(sandbox) AND s.organization_id = \(organization) AND n.hidden AND n.build_info IS NOT NULL
            """
        ).map(BuildLogSource.init)
    }

    /// Most pieces of a log that are read at a time; a piece has at most 64 KiB.
    static let logPiecesLimit = 16

    /// What the log has from this byte on, as far as it is read at once. Empty at the end.
    package func readLog(of builder: SnapshotID, from offset: Int) async throws -> [UInt8] {
        let rows = try await client.query(
            """
            SELECT starts_at, content FROM build_log
            WHERE snapshot_id = \(builder) AND starts_at + octet_length(content) > \(offset)
            ORDER BY starts_at LIMIT \(Self.logPiecesLimit)
            """
        )
        return try rows.flatMap { row in
            let (start, content): (Int, [UInt8]) = (try row["starts_at"], try row["content"])
            return content.dropFirst(max(0, offset - start))
        }
    }

    /// Discards contexts and images that nobody needs any more; returns how many rows changed.
    package func housekeep() async throws -> Int {
        try await client.queryFirst("SELECT housekeep_builds() AS changed").map { try $0["changed"] } ?? 0
    }
}

extension PostgresClient {
    package var builds: BuildQueries { BuildQueries(client: self) }
}

// What a runner does for a build that it holds.
extension RunnerQueries {
    /// Adds to the build's log. False when the job is held no longer.
    package func appendBuildLog(_ text: [UInt8], of job: SnapshotJob) async throws -> Bool {
        try await client.queryFirst("SELECT append_build_log(\(job.snapshot), \(job.epoch), \(text)) AS kept").map {
            try $0["kept"]
        } ?? false
    }

    /// Whether the build has printed anything before, under another claim.
    package func hasBegun(_ job: SnapshotJob) async throws -> Bool {
        try await client.queryFirst("SELECT has_build_begun(\(job.snapshot), \(job.epoch)) AS begun").map {
            try $0["begun"]
        } ?? false
    }

    /// A piece of a context; empty at the end of the part, nil beyond the last part or when the job is held no longer.
    package func readContext(
        _ hash: String,
        of job: SnapshotJob,
        part: Int,
        from offset: Int,
        atMost count: Int
    ) async throws -> [UInt8]? {
        try await client.queryFirst(
            """
            SELECT piece FROM read_context(\(job.snapshot), \(job.epoch), \(hash), \(Int32(clamping: part)),
                \(Int32(clamping: offset)), \(Int32(clamping: count)))
            """
        ).map { try $0["piece"] }
    }

    /// Images that a build may take steps from: the newest of its organization.
    package func cacheSources(of job: SnapshotJob) async throws -> [InternalImage] {
        try await client.query("SELECT image FROM build_cache_sources(\(job.snapshot), \(job.epoch)) AS image")
            .compactMap {
                InternalImage(try $0["image"] as String)
            }
    }

    /// Images that the operator gives to everybody as they lie in the engines, by the names they have there.
    package func generalImages() async throws -> [String] {
        try await client.query(
            "SELECT image FROM snapshot WHERE general AND image IS NOT NULL AND num_nonnulls(image_name, build_info) = 0"
        ).map { try $0["image"] }
    }
}
