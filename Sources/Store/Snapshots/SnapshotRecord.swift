package import Domain
package import FoundationEssentials
package import Postgres

/// An image with defaults to start sandboxes from: one row of `snapshot`.
package struct SnapshotRecord: Sendable, Identifiable {
    package let id: SnapshotID
    package let organizationID: OrganizationID?
    /// Shared with every organization.
    package let isGeneral: Bool
    package let name: String
    /// What sandboxes start from; nil until it was made.
    package let image: String?
    /// What was asked for, where it is pulled; nil for an image that the runners' engines have of their own.
    package let imageName: String?
    /// What it is built from, where it is built.
    package let buildInfo: JSONText?
    package let state: SnapshotState
    package let errorReason: String?
    package let cpu: Int
    package let memoryGib: Int
    package let diskGib: Int
    package let gpu: Int
    package let gpuType: String?
    package let osUser: String?
    package let entrypoint: [String]?
    /// What the image itself starts with.
    package let imageEntrypoint: [String]?
    /// Regions that fetch it early; empty means any, as needed.
    package let regionIDs: [String]
    /// The sandbox that it is an image of, while that is known.
    package let sourceSandboxID: SandboxID?
    package let allowsSudo: Bool
    package let architecture: String?
    package let sizeBytes: Int64?
    package let createdAt: Date
    package let updatedAt: Date
    package let lastUsedAt: Date?

    /// Whether sandboxes may be started from it.
    package var isActive: Bool { state == .active }

    init(_ row: Row) throws {
        id = try row["id"]
        organizationID = try row["organization_id"]
        isGeneral = try row["general"]
        name = try row["name"]
        image = try row["image"]
        imageName = try row["image_name"]
        buildInfo = try row["build_info"]
        state = try row["state"]
        errorReason = try row["error_reason"]
        cpu = try row["cpu"]
        memoryGib = try row["memory_gib"]
        diskGib = try row["disk_gib"]
        gpu = try row["gpu"]
        gpuType = try row["gpu_type"]
        osUser = try row["os_user"]
        entrypoint = try row["entrypoint"]
        imageEntrypoint = try row["image_entrypoint"]
        regionIDs = try row["region_ids"]
        sourceSandboxID = try row["source_sandbox_id"]
        allowsSudo = try row["allow_sudo"]
        architecture = try row["architecture"]
        sizeBytes = try row["size_bytes"]
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
        lastUsedAt = try row["last_used_at"]
    }

    static let columns: SQL = """
        id, organization_id, general, name, image, image_name, build_info, state, error_reason, cpu, memory_gib, disk_gib, gpu, \
        gpu_type, os_user, entrypoint, image_entrypoint, region_ids, allow_sudo, architecture, size_bytes, created_at, \
        updated_at, last_used_at, source_sandbox_id
        """
}
