package import Domain
package import Postgres

/// A snapshot to be made, checked already. Has one source: an image's name, or what it is built from.
package struct NewSnapshot: Sendable {
    package var id: SnapshotID
    package var organizationID: OrganizationID
    package var name: String
    package var imageName: String?
    package var buildInfo: JSONText?
    package var cpu = 1
    package var memoryGib = 1
    package var diskGib = 3
    package var gpu = 0
    package var gpuType: String?
    /// nil is the image's own.
    package var entrypoint: [String]?
    /// Whose runners make it and fetch it early; empty means any, as needed.
    package var regionIDs: [String] = []

    package init(id: SnapshotID = .random(), organizationID: OrganizationID, name: String, imageName: String? = nil) {
        self.id = id
        self.organizationID = organizationID
        self.name = name
        self.imageName = imageName
    }
}
