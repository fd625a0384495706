package import Firewall
package import Store

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Everything an operator may set of a runner. Name and region are in its row of the database, known by its login.
package struct RunnerConfiguration: Sendable {
    /// Longest name of a bridge: the kernel's limit of interface names.
    package static let bridgeNameLimit = 15
    /// Most addresses that a runner registers; the schema's limit is 65,000.
    package static let addressSlotsLimit = 65_000

    /// The version that is reported.
    package var version = "0.1.0"
    /// Path of the static `martlet-daemon`; it is copied, so that an upgrade does not touch running sandboxes.
    package var daemonPath: String
    /// Holds the ingress' secret and certificate, and copies of the daemon. Only the runner may read it.
    package var stateDirectory: String

    package var ingressHost = "0.0.0.0"
    package var ingressPort = 7780
    /// `host:port` for proxies; nil for the listening address.
    package var ingressAdvertised: String?
    /// Folder in which this runner meets the proxies of its own host, to hand connections over to them; nil for none.
    package var handoverFolder: String?

    /// Network and bridge of the sandboxes.
    package var bridge = "martlet0"
    /// First address is the bridge's, the rest are the sandboxes'. Must not overlap another runner's on the same host.
    package var subnet: IPv4Range
    /// Private ranges that sandboxes may reach.
    package var allowedPrivateRanges: [IPv4Range] = []
    /// Whether sandboxes may connect to port 25.
    package var allowsSMTP = false
    /// Empty for the host's, or public ones where the host's are unknown.
    package var resolvers: [IPv4Address] = []

    /// OCI runtime; nil for the engine's default.
    package var runtime: String?
    /// nil where this host mounts no volumes.
    package var volumes: VolumeStorage?
    package var limits = SandboxLimits()
    package var overcommit = Overcommit()
    /// Capacities to promise instead of the host's own times over-commitment.
    package var cpuCapacity: Int?
    package var memoryCapacityGib: Int?
    package var diskCapacityGib: Int?
    /// Reported with the runner.
    package var labels: [String: String] = [:]
    /// Martlet's own registry; nil makes no snapshots here, and runs none that were made.
    package var registry: RegistryAccess?
    /// Opens logins of registries; nil pulls from registries that ask for none.
    package var secrets: SecretBox?
    package var pace = RunnerPace()

    package var volumesFolder: String { stateDirectory + "/volumes" }

    package init(daemonPath: String, stateDirectory: String) throws {
        self.daemonPath = daemonPath
        self.stateDirectory = stateDirectory
        subnet = try IPv4Range(parsing: "10.88.0.0/16")
    }
}

/// Limits of every sandbox that no user sets.
package struct SandboxLimits: Sendable, Hashable {
    /// Processes and threads.
    package var pids: Int64 = 1024
    /// Open files per process: no more than this host lets a process have, or no container would start.
    package var openFiles = min(65_536, hardOpenFilesLimit())
    /// Of what the entrypoint prints, the engine keeps so many files…
    package var logFiles = 2
    /// … of that size.
    package var logFileBytes: Int64 = 10 << 20
    /// How long processes may take to end at a stop that is not forced.
    package var stopGrace: Duration = .seconds(10)
    /// Higher is killed earlier when the host runs out of memory; the host's own services are at 0.
    package var oomScoreAdjustment = 500

    package init() {}
}

/// How much more may be promised than there is. Sandboxes are idle most of the time.
package struct Overcommit: Sendable, Hashable {
    package var cpu = 16.0
    package var memory = 8.0
    package var disk = 4.0

    package init() {}
}

/// How often and how long.
package struct RunnerPace: Sendable, Hashable {
    /// The lease is renewed so often…
    package var renewInterval: Duration = .seconds(5)
    /// … and lasts so long.
    package var leaseLife: Duration = .seconds(15)
    package var timerInterval: Duration = .seconds(5)
    package var reclaimInterval: Duration = .seconds(10)
    /// Everything is compared so often, though nothing woke the runner.
    package var resyncInterval: Duration = .seconds(15)
    /// From a container's start to its daemon's first answer.
    package var daemonDeadline: Duration = .seconds(30)
    /// A container of ours that no row explains is left alone for this long.
    package var orphanGrace: Duration = .seconds(30)
    /// A mounted volume that no sandbox uses stays for this long.
    package var volumeGrace: Duration = .seconds(60)
    /// Passes at once.
    package var concurrency = 12
    /// The longest pass: a stop with its grace, a create on a slow disk. Pulls are not part of passes.
    package var passLimit: Duration = .seconds(300)
    package var pullLimit: Duration = .seconds(14 * 60)
    /// Pulls at once.
    package var pullsLimit = 3
    /// Snapshots made at once; likewise captures, and one more for what an owner waits for.
    package var snapshotsLimit = 2
    /// The job of one is held for so long, and renewed ten times within.
    package var snapshotLease: Duration = .seconds(30)
    /// Jobs are looked for so often, though nothing woke the runner.
    package var snapshotPollInterval: Duration = .seconds(1)
    /// For one pull or push of a snapshot's image.
    package var snapshotPullLimit: Duration = .seconds(50 * 60)
    /// The largest image that a snapshot may have.
    package var imageBytesLimit: Int64 = 64 << 30
    /// For one build.
    package var buildLimit: Duration = .seconds(30 * 60)
    /// What one step of a build may use. The disk is limited where the storage driver can (`DiskQuotas`).
    package var buildCPUs = 2.0
    package var buildMemoryBytes: Int64 = 2 << 30
    package var buildDiskBytes: Int64 = 20 << 30
    /// The cache of images is looked through so often.
    package var cacheInterval: Duration = .seconds(30)
    /// An image of the internal registry that nothing is for is kept for so long.
    package var cacheGrace: Duration = .seconds(600)
    /// Fuller than this, the disk loses images that are not in use, those used longest ago first…
    package var diskHighPercent = 85
    /// … until it is less full than this; and only then images are fetched early.
    package var diskLowPercent = 75
    /// With less room than this no container and no snapshot's job is begun.
    package var diskReserveBytes: Int64 = 64 << 20
    /// A worker that has found less takes no other job for so long.
    package var noRoomPause: Duration = .seconds(10)
    /// Where an engine says that no space is left, and less than this is, the host's disk is meant, not a sandbox's own.
    package var fullDiskBytes: Int64 = 1 << 30
    /// Sandboxes claimed, or reclaimed, at once.
    package var claimLimit = 32

    package init() {}
}

/// The hard limit of open files that this process, and so as a rule the engine beside it, was started with.
private func hardOpenFilesLimit() -> Int64 {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
    return Int64(clamping: limit.rlim_max)
}
