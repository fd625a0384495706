package import Domain
package import Postgres

/// Queries on `snapshot`. An organization sees its own and the general ones.
package struct SnapshotQueries: Sendable {
    let client: any PostgresClient

    package enum Sort: String, Sendable, CaseIterable { case name, state, lastUsedAt, createdAt }

    /// By id where the text is one, else by name; the organization's own goes before a general one of the same name.
    package func find(_ idOrName: String, for organization: OrganizationID) async throws -> SnapshotRecord? {
        try await client.queryFirst(Self.finding(idOrName, for: organization)).map(SnapshotRecord.init)
    }

    /// A numbered page (from 1), and how many there are in all.
    package func list(
        for organization: OrganizationID,
        nameContains text: String?,
        madeOf sandbox: SandboxID? = nil,
        sort: Sort,
        isDescending: Bool,
        page: Int,
        limit: Int
    ) async throws -> (items: [SnapshotRecord], total: Int) {
        var condition = Self.visible(to: organization, nameContains: text)
        if let sandbox { condition += " AND source_sandbox_id = \(sandbox)" }
        let total: Int = try await client.queryFirst("SELECT count(*) AS total FROM snapshot WHERE \(condition)")![
            "total"
        ]
        let rows = try await client.query(
            """
            SELECT \(SnapshotRecord.columns) FROM snapshot WHERE \(condition)
            ORDER BY \(sort.column) \(isDescending ? "DESC" : "ASC" as SQL) NULLS LAST, id
            LIMIT \(limit) OFFSET \((page - 1) * limit)
            """
        )
        return (try rows.map(SnapshotRecord.init), total)
    }

    /// Makes a snapshot, and by trigger the job that makes its image.
    ///
    /// - Throws: `PostgresError` of `snapshot_name_is_unique_in_organization`, `organizationCeiling`, or of a CHECK.
    package func insert(_ new: NewSnapshot, by actor: Actor) async throws {
        try await client.execute(Self.insertion(new, by: actor))
    }

    /// Has it made, or tried, again. False when it is not the organization's, or needs no activation.
    package func activate(_ id: SnapshotID, of organization: OrganizationID, by actor: Actor) async throws -> Bool {
        try await client.execute(
            """
            \(actor.acting)
            UPDATE snapshot SET desired_state = 'active', recover_count = recover_count + 1 FROM acting
            WHERE id = \(id) AND organization_id = \(organization) AND NOT general AND NOT hidden
                AND state IN ('inactive', 'error', 'build_failed')
            """
        ) > 0
    }

    /// No sandbox can be made from it until it is activated; those that exist stay. False when it is not the organization's,
    /// or not active.
    package func deactivate(_ id: SnapshotID, of organization: OrganizationID, by actor: Actor) async throws -> Bool {
        try await client.execute(
            """
            \(actor.acting)
            UPDATE snapshot SET desired_state = 'inactive' FROM acting
            WHERE id = \(id) AND organization_id = \(organization) AND NOT general AND NOT hidden AND state = 'active'
            """
        ) > 0
    }

    /// Sandboxes made from it go on, and its image stays where they need it. False when it is not the organization's.
    package func delete(_ id: SnapshotID, of organization: OrganizationID, by actor: Actor) async throws -> Bool {
        try await client.execute(
            """
            \(actor.acting)
            DELETE FROM snapshot USING acting
            WHERE id = \(id) AND organization_id = \(organization) AND NOT general AND NOT hidden
            """
        ) > 0
    }

    /// Ends jobs that nobody will end, and deactivates what nobody uses; returns how many rows changed.
    package func housekeep() async throws -> Int {
        try await client.queryFirst("SELECT housekeep_snapshots() AS changed").map { try $0["changed"] } ?? 0
    }

    /// How many the organization owns.
    package func countOwned(by organization: OrganizationID) async throws -> Int {
        try await client.queryFirst(
            "SELECT count(*) AS owned FROM snapshot WHERE organization_id = \(organization) AND NOT general AND NOT hidden"
        )!["owned"]
    }

    static func insertion(_ new: NewSnapshot, by actor: Actor) -> SQL {
        """
        \(actor.acting)
        INSERT INTO snapshot (id, organization_id, name, image_name, build_info, cpu, memory_gib, disk_gib, gpu, gpu_type,
            entrypoint, region_ids)
        SELECT \(new.id), \(new.organizationID), \(new.name), \(new.imageName), \(new.buildInfo), \(new.cpu), \(new.memoryGib),
            \(new.diskGib), \(new.gpu), \(new.gpuType), \(new.entrypoint), \(new.regionIDs)
        FROM acting
        """
    }

    static func finding(_ idOrName: String, for organization: OrganizationID) -> SQL {
        let wanted: SQL = SnapshotID(idOrName).map { "(id = \($0) OR name = \(idOrName))" } ?? "name = \(idOrName)"
        return """
            SELECT \(SnapshotRecord.columns) FROM snapshot
            WHERE \(wanted) AND (organization_id = \(organization) OR general) AND NOT hidden
            ORDER BY name = \(idOrName), general LIMIT 1
            """
    }

    private static func visible(to organization: OrganizationID, nameContains text: String?) -> SQL {
        var condition: SQL = "(organization_id = \(organization) OR general) AND NOT hidden"
        if let text { condition += " AND strpos(lower(name), lower(\(text)::text)) > 0" }
        return condition
    }
}

extension SnapshotQueries.Sort {
    fileprivate var column: SQL {
        switch self {
        case .name: "name"
        case .state: "state"
        case .lastUsedAt: "last_used_at"
        case .createdAt: "created_at"
        }
    }
}

extension PostgresClient {
    package var snapshots: SnapshotQueries { SnapshotQueries(client: self) }
}
