package import Domain
package import FoundationEssentials
package import Postgres

/// A place runners stand in: one row of `region`.
package struct RegionRecord: Sendable, Identifiable {
    package let id: String
    package let name: String
    /// nil is shared by all.
    package let organizationID: OrganizationID?
    package let createdAt: Date
    package let updatedAt: Date

    init(_ row: Row) throws {
        id = try row["id"]
        name = try row["name"]
        organizationID = try row["organization_id"]
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
    }
}

/// Queries on `region`. An organization sees its own and the shared ones.
package struct RegionQueries: Sendable {
    let client: any PostgresClient

    /// All that the organization may use, oldest first.
    package func list(for organization: OrganizationID) async throws -> [RegionRecord] {
        try await client.query(
            """
            SELECT id, name, organization_id, created_at, updated_at FROM region
            WHERE organization_id = \(organization) OR organization_id IS NULL ORDER BY created_at, id
            """
        ).map(RegionRecord.init)
    }

    /// The kinds of GPU that runners of the region have; empty if they have none.
    package func gpuTypes(in region: String) async throws -> [String] {
        try await client.query(
            """
            SELECT DISTINCT coalesce(s.gpu_type, '') AS gpu_type FROM runner r JOIN runner_status s ON s.runner_id = r.id
            WHERE r.region_id = \(region) AND s.gpu_capacity > 0 ORDER BY 1
            """
        ).map { try $0["gpu_type"] }
    }
}

extension PostgresClient {
    package var regions: RegionQueries { RegionQueries(client: self) }
}
