package import Domain
package import FoundationEssentials
import Postgres

/// Files that outlive sandboxes: one row of `volume`.
package struct VolumeRecord: Sendable, Identifiable {
    package let id: VolumeID
    package let organizationID: OrganizationID
    package let name: String
    package let wish: VolumeWish
    package let state: VolumeState
    package let errorReason: String?
    package let createdAt: Date
    package let updatedAt: Date
    package let lastUsedAt: Date?

    init(_ row: Row) throws {
        id = try row["id"]
        organizationID = try row["organization_id"]
        name = try row["name"]
        wish = try row["desired_state"]
        state = try row["state"]
        errorReason = try row["error_reason"]
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
        lastUsedAt = try row["last_used_at"]
    }

    static let columns: SQL =
        "id, organization_id, name, desired_state, state, error_reason, created_at, updated_at, last_used_at"
}
