package import Domain
import FoundationEssentials
import Postgres

/// A sandbox placed on the runner that asks: what is wanted of it, and what the runner last reported (view `my_sandbox`).
package struct AssignedSandbox: Sendable, Hashable {
    package var id: SandboxID
    /// Fencing token of the placement; every report carries it.
    package var epoch: Int64
    /// Number of its address on this runner, from 1.
    package var slot: Int
    package var generation: Int64
    package var desired: DesiredState
    /// A stop that does not wait for processes to end by themselves.
    package var forceStop: Bool

    package var image: String
    /// User that its processes run as; nil for the image's.
    package var osUser: String?
    /// nil for the image's.
    package var entrypoint: [String]?
    package var allowsSudo: Bool
    package var env: [String: String]
    package var cpu: Int
    package var memoryGib: Int
    package var diskGib: Int
    package var gpu: Int
    /// Which of the runner's GPUs, from 0; no other sandbox that runs has one of them.
    package var gpuDevices: [Int]
    package var networkBlockAll: Bool
    package var networkAllowList: String?
    package var volumes: [SandboxVolume]
    /// What its daemon asks of every caller.
    package var toolboxToken: String
    /// Whether its daemon is to record terminals that are opened from now on.
    package var recordsTerminals: Bool
    /// It is to be archived, and its image is a backup of all that its container has.
    package var isArchiveReady: Bool
    /// Its image is a backup of its own, which cannot be made anew.
    package var isRestored: Bool

    package var reported: ReportedSandbox

    package init(id: SandboxID, image: String, toolboxToken: String) {
        self.id = id
        epoch = 1
        slot = 1
        generation = 1
        desired = .started
        forceStop = false
        self.image = image
        allowsSudo = false
        env = [:]
        cpu = 1
        memoryGib = 1
        diskGib = 1
        gpu = 0
        gpuDevices = []
        networkBlockAll = false
        volumes = []
        self.toolboxToken = toolboxToken
        recordsTerminals = false
        isArchiveReady = false
        isRestored = false
        reported = ReportedSandbox()
    }
}

/// What the runner last wrote of a sandbox.
package struct ReportedSandbox: Sendable, Hashable {
    package var state: ObservedState = .creating
    /// The generation that the actual sandbox last equalled, or failed under.
    package var generation: Int64 = 0
    /// The error is a deadline's, not the runner's finding.
    package var hasTimedOut = false
    package var containerID: String?
    package var effective = EffectiveLimits()

    package init() {}
}

/// Column `sandbox_status.effective`: the limits in force, and what the runner remembers of the run it reported.
///
/// The `requested…` keys say which wish these limits answer; the view compares them to tell `resizing`.
package struct EffectiveLimits: Sendable, Hashable, Codable {
    package var requestedCpu: Int?
    package var requestedMemoryGib: Int?
    package var requestedDiskGib: Int?
    package var cpu: Double?
    package var memoryBytes: Int64?
    package var pids: Int64?
    /// nil where nothing enforces it; `diskNote` says why.
    package var diskBytes: Int64?
    package var diskNote: String?
    /// Why limits differ from the wish, if they do.
    package var note: String?
    /// When the engine says the reported run began: another value means that the container was started anew.
    package var run: String?
    /// What that run ran into, as far as reported. Each increase makes an event (`sandbox.limit.reached`).
    package var reached: LimitsReached?
    /// Whether the run's daemon was told to record terminals; nil counts as not.
    package var recordsTerminals: Bool?

    package init() {}
}

/// Limits that a sandbox reached since its run began, as the kernel counts them.
package struct LimitsReached: Sendable, Hashable, Codable {
    /// Processes killed because there was no memory left.
    package var memoryKills: Int64 = 0
    /// Processes and threads refused because there were as many as there may be.
    package var refusedForks: Int64 = 0
    package var isDiskFull = false

    package init() {}
}

extension AssignedSandbox {
    static var columns: SQL {
        """
        id, epoch, slot, generation, desired_state, force_stop, image, os_user, entrypoint, allow_sudo, env, cpu, memory_gib,
        disk_gib, gpu, gpu_devices, network_block_all, network_allow_list, toolbox_token, state, observed_generation, timed_out,
        container_id, effective, record_terminals, archive_ready, restored,
        coalesce((SELECT m.volumes FROM my_sandbox_volume m WHERE m.sandbox_id = my_sandbox.id), '[]') AS volumes
        """
    }

    init(_ row: Row) throws {
        self.init(id: try row["id"], image: try row["image"], toolboxToken: try row["toolbox_token"])
        epoch = try row["epoch"]
        slot = try row["slot"]
        generation = try row["generation"]
        desired = try row["desired_state"]
        forceStop = try row["force_stop"]
        osUser = try row["os_user"]
        entrypoint = try row["entrypoint"]
        allowsSudo = try row["allow_sudo"]
        env = try row.decode("env", as: JSON<[String: String]>.self).value
        cpu = try row["cpu"]
        memoryGib = try row["memory_gib"]
        diskGib = try row["disk_gib"]
        gpu = try row["gpu"]
        gpuDevices = try row["gpu_devices"]
        networkBlockAll = try row["network_block_all"]
        networkAllowList = try row["network_allow_list"]
        volumes = try row.decode("volumes", as: JSON<[SandboxVolume]>.self).value
        recordsTerminals = try row["record_terminals"]
        isArchiveReady = try row["archive_ready"]
        isRestored = try row["restored"]
        reported.state = try row["state"]
        reported.generation = try row["observed_generation"]
        reported.hasTimedOut = try row["timed_out"]
        reported.containerID = try row["container_id"]
        reported.effective = try row.decode("effective", as: JSON<EffectiveLimits>.self).value
    }
}
