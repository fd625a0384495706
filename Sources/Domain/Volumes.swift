/// What a user sees of a volume (`VolumeState` of the published client); column `volume.state`.
///
///     pending_create → creating → ready → pending_delete → deleting → deleted
///     error: from the third failed try on; tries go on, so that it ends when its cause does
package enum VolumeState: String, Sendable, Hashable, CaseIterable, Codable {
    case pendingCreate = "pending_create"
    case creating, ready
    case pendingDelete = "pending_delete"
    case deleting, deleted, error
}

/// What is wanted of a volume; column `volume.desired_state`.
package enum VolumeWish: String, Sendable, Hashable, CaseIterable, Codable {
    case ready, deleted
}

/// What a runner says of its mount of a volume; column `volume_mount.state`.
package enum VolumeMountState: String, Sendable, Hashable, CaseIterable, Codable {
    case mounting, mounted
    /// No sandbox uses it any more; it stays for a while.
    case idle
    /// It is to go once what was written is in S3.
    case flushing
    case error
}

/// A volume in a sandbox, in the words of the interface; one entry of `sandbox.volumes`.
package struct SandboxVolume: Sendable, Hashable, Codable {
    package var volumeId: VolumeID
    /// Where it appears: absolute and normalized.
    package var mountPath: String
    /// The folder of the volume that is shown; nil for all of it.
    package var subpath: String?

    package init(volumeId: VolumeID, mountPath: String, subpath: String? = nil) {
        self.volumeId = volumeId
        self.mountPath = mountPath
        self.subpath = subpath
    }
}
