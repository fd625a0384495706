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
        sort: Sort,
        isDescending: Bool,
        page: Int,
        limit: Int
    ) async throws -> (items: [SnapshotRecord], total: Int) {
        let condition = Self.visible(to: organization, nameContains: text)
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

    /// How many the organization owns.
    package func countOwned(by organization: OrganizationID) async throws -> Int {
        try await client.queryFirst(
            "SELECT count(*) AS owned FROM snapshot WHERE organization_id = \(organization) AND NOT general"
        )!["owned"]
    }

    static func finding(_ idOrName: String, for organization: OrganizationID) -> SQL {
        let wanted: SQL = SnapshotID(idOrName).map { "(id = \($0) OR name = \(idOrName))" } ?? "name = \(idOrName)"
        return """
            SELECT \(SnapshotRecord.columns) FROM snapshot
            WHERE \(wanted) AND (organization_id = \(organization) OR general)
            ORDER BY name = \(idOrName), general LIMIT 1
            """
    }

    private static func visible(to organization: OrganizationID, nameContains text: String?) -> SQL {
        var condition: SQL = "(organization_id = \(organization) OR general)"
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
