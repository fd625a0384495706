package import Domain

/// The spec of a sandbox to be made, checked already; the columns of `sandbox` that a creator decides.
package struct NewSandbox: Sendable {
    package var id: SandboxID
    package var organizationID: OrganizationID
    /// nil means the id.
    package var name: String?
    package var regionID: String
    /// What it starts from: image, user, entrypoint and rights come from here.
    package var snapshot: SnapshotRecord
    /// nil means the snapshot's.
    package var osUser: String?
    package var env: [String: String] = [:]
    package var labels: [String: String] = [:]
    package var isPublic = false
    package var cpu: Int
    package var memoryGib: Int
    package var diskGib: Int
    package var gpu: Int
    package var gpuTypes: [String] = []
    package var networkBlockAll = false
    package var networkAllowList: String?
    package var volumes: [SandboxVolume] = []
    package var autoStopMinutes: Int
    package var autoArchiveMinutes: Int
    package var autoDeleteMinutes: Int
    /// Counted from the insert; nil means no end.
    package var ttlMinutes: Int?
    package var queueTimeoutMinutes: Int?
    package var recordsTerminals = false

    /// A sandbox with the snapshot's resources and the usual timers.
    package init(
        id: SandboxID = .random(),
        organizationID: OrganizationID,
        regionID: String,
        snapshot: SnapshotRecord,
        name: String? = nil
    ) {
        self.id = id
        self.organizationID = organizationID
        self.name = name
        self.regionID = regionID
        self.snapshot = snapshot
        cpu = snapshot.cpu
        memoryGib = snapshot.memoryGib
        diskGib = snapshot.diskGib
        gpu = snapshot.gpu
        gpuTypes = snapshot.gpuType.map { [$0] } ?? []
        autoStopMinutes = 15
        autoArchiveMinutes = 7 * 24 * 60
        autoDeleteMinutes = -1
    }
}
