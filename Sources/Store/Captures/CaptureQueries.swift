package import Domain
import Postgres

/// What owners ask of the files of their sandboxes, and how forks belong together.
package struct CaptureQueries: Sendable {
    /// The longest way up to the first ancestor that is followed.
    package static let ancestorsLimit: Int32 = 100
    /// Most forks that are listed.
    package static let forksLimit: Int32 = 1000

    let client: any PostgresClient

    /// Asks for a capture. False when the sandbox is not as it was: read it again.
    ///
    /// - Parameters:
    ///   - generation: the one the decision was made on.
    ///   - name: of the snapshot, where it is one.
    /// - Throws: `PostgresError` of `snapshot_name_is_unique_in_organization` or `organizationCeiling`.
    package func request(
        _ purpose: CapturePurpose,
        of id: SandboxID,
        in organization: OrganizationID,
        generation: Int64,
        name: String? = nil,
        by actor: Actor
    ) async throws -> Bool {
        try await client.queryFirst(
            """
            \(actor.acting)
            SELECT request_capture(\(id), \(organization), \(generation), \(purpose.rawValue), \(name)) IS NOT NULL AS requested FROM acting
            """
        )?["requested"] ?? false
    }

    /// Makes a child that starts from what the sandbox is now. Nil when the sandbox is not as it was: read it again.
    ///
    /// - Throws: `PostgresError` of `sandbox_name_is_unique`, `organizationCeiling`, or of a CHECK.
    package func fork(
        _ id: SandboxID,
        in organization: OrganizationID,
        generation: Int64,
        name: String?,
        by actor: Actor
    ) async throws -> SandboxID? {
        try await client.queryFirst(
            """
            \(actor.acting)
            SELECT request_fork(\(id), \(organization), \(generation), \(name)) AS child FROM acting
            """
        )?["child"]
    }

    /// The sandbox that it was forked from, that one's, and so on, the nearest first; as far as they live.
    package func ancestors(of id: SandboxID, in organization: OrganizationID, limit: Int32 = ancestorsLimit)
        async throws
        -> [SandboxRecord]
    {
        try await client.query(
            """
            WITH RECURSIVE line (id, parent_id, distance) AS (
                SELECT id, parent_id, 0 FROM sandbox WHERE id = \(id) AND organization_id = \(organization)
                UNION ALL
                SELECT s.id, s.parent_id, line.distance + 1 FROM sandbox s JOIN line ON s.id = line.parent_id
                WHERE line.distance < \(limit))
            SELECT \(SandboxRecord.columns) FROM line JOIN sandbox_view v ON v.id = line.id
            WHERE line.distance > 0 AND v.destroyed_at IS NULL ORDER BY line.distance
            """
        ).map(SandboxRecord.init)
    }

    /// Its children, the youngest first. Those that were destroyed are known for a day.
    package func forks(of id: SandboxID, in organization: OrganizationID, includingDestroyed: Bool) async throws
        -> [SandboxRecord]
    {
        try await client.query(
            """
            SELECT \(SandboxRecord.columns) FROM sandbox c JOIN sandbox_view v ON v.id = c.id
            WHERE c.parent_id = \(id) AND c.organization_id = \(organization) AND (\(includingDestroyed) OR c.destroyed_at IS NULL)
            ORDER BY v.created_at DESC, v.id LIMIT \(Self.forksLimit)
            """
        ).map(SandboxRecord.init)
    }

    /// Ends captures that nobody can end, removes backups that nobody needs, and asks for those that clocks want; returns how many
    /// rows changed.
    package func housekeep() async throws -> Int {
        try await client.queryFirst("SELECT housekeep_captures() AS changed").map { try $0["changed"] } ?? 0
    }
}

extension PostgresClient {
    package var captures: CaptureQueries { CaptureQueries(client: self) }
}

/// How the newest backup of a sandbox stands; `backupState` of the published client.
package enum BackupState: String, Sendable, Hashable, CaseIterable, Codable {
    case none = "None"
    case pending = "Pending"
    case inProgress = "InProgress"
    case completed = "Completed"
    case error = "Error"
}
