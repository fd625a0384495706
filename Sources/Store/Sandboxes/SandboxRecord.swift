package import Domain
package import FoundationEssentials
import Postgres

/// A sandbox as its owner sees it: one row of `sandbox_view`.
package struct SandboxRecord: Sendable, Identifiable {
    package let id: SandboxID
    package let organizationID: OrganizationID
    package let name: String
    package let regionID: String
    package let snapshotName: String?
    package let image: String
    package let osUser: String?
    package let env: [String: String]
    package let labels: [String: String]
    package let isPublic: Bool
    package let cpu: Int
    package let memoryGib: Int
    package let diskGib: Int
    package let gpu: Int
    /// The kind of GPU that the runner has; nil without GPUs.
    package let gpuType: String?
    package let networkBlockAll: Bool
    package let networkAllowList: String?
    package let volumes: [SandboxVolume]
    package let autoStopMinutes: Int
    package let autoArchiveMinutes: Int
    package let autoDeleteMinutes: Int
    package let autoDestroyAt: Date?
    package let queueTimeoutMinutes: Int?
    package private(set) var desiredState: DesiredState
    package let generation: Int64
    package let createdAt: Date
    package let updatedAt: Date
    package let destroyedAt: Date?
    package let queueTimedOutAt: Date?
    package let lastActivityAt: Date?
    package let runnerID: RunnerID?
    package let daemonVersion: String?
    package private(set) var state: PublicState
    package let errorReason: String?
    package let isRecoverable: Bool
    /// Whether terminals are to be recorded.
    package let recordsTerminals: Bool
    /// Whether its daemon, while it runs, was told to record them.
    package let isToldToRecord: Bool
    /// What it was forked from, while that lives.
    package let parentID: SandboxID?
    /// Whether others that live were forked from it.
    package let hasForks: Bool
    package let backupState: BackupState
    /// When its last backup was taken.
    package let backupCreatedAt: Date?

    /// Destroyed where it stops: auto-delete 0.
    package var isEphemeral: Bool { autoDeleteMinutes == 0 }

    /// The same, after its end: for answers to whoever deleted it.
    package var destroyed: SandboxRecord {
        var copy = self
        (copy.state, copy.desiredState) = (.destroyed, .destroyed)
        return copy
    }

    init(_ row: Row) throws {
        id = try row["id"]
        organizationID = try row["organization_id"]
        name = try row["name"]
        regionID = try row["region_id"]
        snapshotName = try row["snapshot_name"]
        image = try row["image"]
        osUser = try row["os_user"]
        env = try row.decode("env", as: JSON<[String: String]>.self).value
        labels = try row.decode("labels", as: JSON<[String: String]>.self).value
        isPublic = try row["public"]
        cpu = try row["cpu"]
        memoryGib = try row["memory_gib"]
        diskGib = try row["disk_gib"]
        gpu = try row["gpu"]
        gpuType = gpu > 0 ? try row["gpu_type"] : nil
        networkBlockAll = try row["network_block_all"]
        networkAllowList = try row["network_allow_list"]
        volumes = try row.decode("volumes", as: JSON<[SandboxVolume]>.self).value
        autoStopMinutes = try row["auto_stop_minutes"]
        autoArchiveMinutes = try row["auto_archive_minutes"]
        autoDeleteMinutes = try row["auto_delete_minutes"]
        autoDestroyAt = try row["auto_destroy_at"]
        queueTimeoutMinutes = try row["queue_timeout_minutes"]
        desiredState = try row["desired_state"]
        generation = try row["generation"]
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
        destroyedAt = try row["destroyed_at"]
        queueTimedOutAt = try row["queue_timed_out_at"]
        lastActivityAt = try row["last_activity_at"]
        runnerID = try row["runner_id"]
        daemonVersion = try row["daemon_version"]
        state = try row["state"]
        errorReason = try row["error_reason"]
        isRecoverable = try row["recoverable"]
        recordsTerminals = try row["record_terminals"]
        isToldToRecord = try row["is_told_to_record"]
        parentID = try row["parent_id"]
        hasForks = try row["has_forks"]
        backupState = try row["backup_state"] ?? .none
        backupCreatedAt = try row["backup_created_at"]
    }

    /// The columns that `init` reads, of a `sandbox_view` called `v`.
    static let columns: SQL = """
        v.id, v.organization_id, v.name, v.region_id, v.snapshot_name, v.image, v.os_user, v.env, v.labels, v.public, v.cpu, \
        v.memory_gib, v.disk_gib, v.gpu, v.gpu_type, v.network_block_all, v.network_allow_list, v.auto_stop_minutes, \
        v.auto_archive_minutes, v.auto_delete_minutes, v.auto_destroy_at, v.queue_timeout_minutes, v.desired_state, \
        v.generation, v.created_at, v.updated_at, v.destroyed_at, v.queue_timed_out_at, v.last_activity_at, v.runner_id, \
        v.daemon_version, v.state, v.error_reason, v.recoverable, v.record_terminals, \
        coalesce(v.effective->'recordsTerminals' = 'true', false) AS is_told_to_record, \
        (SELECT s.parent_id FROM sandbox s WHERE s.id = v.id) AS parent_id, \
        EXISTS (SELECT FROM sandbox c WHERE c.parent_id = v.id AND c.desired_state <> 'destroyed') AS has_forks, \
        (SELECT b.state FROM sandbox_backup b WHERE b.sandbox_id = v.id) AS backup_state, \
        (SELECT b.completed_at FROM sandbox_backup b WHERE b.sandbox_id = v.id) AS backup_created_at, \
        (SELECT s.volumes FROM sandbox s WHERE s.id = v.id) AS volumes
        """
}
