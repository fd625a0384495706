/// Everything a container of ours can be: an explicit allow-list.
///
/// What is not here cannot be asked of the engine: no privileged mode, no namespace of the host, no host devices but GPUs,
/// no published ports, no restart policy, no capability outside `Capability`. Image labels and user input never reach the
/// engine but through these fields. Memory, CPU, pids, open files and log size are always limited.
package struct ContainerSpecification: Sendable, Hashable {
    /// Reference or id of an image that is present.
    package var image: String
    /// `user[:group]`; nil for the image's.
    package var user: String?
    /// `NAME=value`; the image's variables stay unless overwritten.
    package var env: [String] = []
    package var workingDirectory: String?
    /// nil for the image's.
    package var entrypoint: [String]?
    /// nil for the image's.
    package var command: [String]?
    package var labels: [String: String] = [:]
    package var hostname: String?
    package var binds: [BindMount] = []
    package var temporaryFilesystems: [TemporaryFilesystem] = []
    package var isReadOnlyRoot = false

    /// Memory limit; memory and swap together get the same limit, so nothing is swapped.
    package var memoryBytes: Int64 = 1 << 30
    /// Billionths of a CPU: 1_500_000_000 is one and a half.
    package var nanoCPUs: Int64 = 1_000_000_000
    /// Weight against other containers under contention; nil for the engine's 1024.
    package var cpuShares: Int64?
    package var pidsLimit: Int64 = 512
    /// Soft and hard limit of open files per process. Starting fails if the engine itself may not have as many.
    package var openFilesLimit: Int64 = 16384
    /// Size of `/dev/shm`; nil for the engine's 64 MiB.
    package var shmBytes: Int64?
    /// Quota of the container's own layer; creation fails where the storage driver has none.
    package var diskQuotaBytes: Int64?
    package var log = LogLimits()

    /// All capabilities are dropped and these added back.
    package var capabilities: Set<Capability> = Capability.defaultSet
    package var noNewPrivileges = true
    /// The profile as JSON; nil for the engine's default profile.
    package var seccompProfile: String?
    /// Name of a loaded profile; nil for the engine's default.
    package var appArmorProfile: String?
    /// Whether Docker's init is PID 1 and reaps.
    package var usesInit = true

    package var network: NetworkAttachment = .none
    /// Resolvers written into the container. Always give them on a bridge: without, the engine may forward the
    /// container's queries from the host's namespace, past any firewall.
    package var dnsServers: [String] = []
    package var dnsSearch: [String] = []
    /// `name:address`.
    package var extraHosts: [String] = []
    /// Namespaced kernel settings, such as `net.ipv6.conf.all.disable_ipv6`.
    package var sysctls: [String: String] = [:]

    package var gpus: GPURequest?
    /// -1000…1000; higher is killed first.
    package var oomScoreAdjustment = 0
    /// Name of an OCI runtime known to the engine; nil for its default.
    package var runtime: String?
    package var stopSignal: String?

    /// A container of `image` with the default limits and no network.
    package init(image: String) {
        self.image = image
    }
}

/// A directory or file of the host shown in the container. The source must exist.
package struct BindMount: Sendable, Hashable {
    /// How mounts made later on one side appear on the other.
    package enum Propagation: String, Sendable, Hashable {
        case rprivate
        /// Mounts made later on the host appear in the container, as a remounted volume must.
        case rslave
    }

    package var source: String
    package var target: String
    package var isReadOnly: Bool
    package var propagation: Propagation

    package init(source: String, target: String, isReadOnly: Bool, propagation: Propagation = .rprivate) {
        self.source = source
        self.target = target
        self.isReadOnly = isReadOnly
        self.propagation = propagation
    }
}

/// A tmpfs of bounded size, `nosuid` and `nodev`. It counts against the container's memory.
package struct TemporaryFilesystem: Sendable, Hashable {
    package var target: String
    package var sizeBytes: Int64
    /// Permission bits, for example `0o1777`.
    package var mode: Int

    package init(target: String, sizeBytes: Int64, mode: Int = 0o1777) {
        self.target = target
        self.sizeBytes = sizeBytes
        self.mode = mode
    }
}

/// How much of a container's output the engine keeps (driver `json-file`).
package struct LogLimits: Sendable, Hashable {
    package var maxFileBytes: Int64
    package var maxFiles: Int

    package init(maxFileBytes: Int64 = 10 << 20, maxFiles: Int = 2) {
        self.maxFileBytes = maxFileBytes
        self.maxFiles = maxFiles
    }
}

/// Where a container's network interface is attached. The host's and other containers' namespaces cannot be asked for.
package enum NetworkAttachment: Sendable, Hashable {
    /// Loopback only.
    case none
    /// A user-defined bridge network, with fixed addresses where given.
    case bridge(name: String, ipv4: String?, mac: String? = nil)
}

/// The capabilities a container may get: Docker's default set without raw sockets.
package enum Capability: String, Sendable, Hashable, CaseIterable {
    case auditWrite = "AUDIT_WRITE"
    case chown = "CHOWN"
    case dacOverride = "DAC_OVERRIDE"
    case fowner = "FOWNER"
    case fsetid = "FSETID"
    case kill = "KILL"
    case mknod = "MKNOD"
    case netBindService = "NET_BIND_SERVICE"
    case setfcap = "SETFCAP"
    case setgid = "SETGID"
    case setpcap = "SETPCAP"
    case setuid = "SETUID"
    case sysChroot = "SYS_CHROOT"

    /// What package managers and servers running as root need, and no more.
    package static let defaultSet: Set<Capability> = [
        .auditWrite, .chown, .dacOverride, .fowner, .fsetid, .kill, .netBindService, .setfcap, .setgid, .setpcap,
        .setuid,
        .sysChroot,
    ]
}

/// NVIDIA GPUs for a container.
package enum GPURequest: Sendable, Hashable {
    /// That many; -1 for all.
    case count(Int)
    /// By index or UUID.
    case devices([String])
}

/// New limits for a container that may be running; nil leaves one as it is.
package struct ResourceUpdate: Sendable, Hashable {
    package var memoryBytes: Int64?
    package var nanoCPUs: Int64?
    package var pidsLimit: Int64?

    package init(memoryBytes: Int64? = nil, nanoCPUs: Int64? = nil, pidsLimit: Int64? = nil) {
        self.memoryBytes = memoryBytes
        self.nanoCPUs = nanoCPUs
        self.pidsLimit = pidsLimit
    }
}
