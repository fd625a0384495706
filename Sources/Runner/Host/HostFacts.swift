package import Docker
package import Firewall
package import Store
import FoundationEssentials
import NIOPosix

#if canImport(Glibc)
    import Glibc
#endif

/// What this host has and can enforce, as read once at the start.
package struct HostFacts: Sendable, Hashable {
    package var architecture: String
    package var processors: Int
    package var memoryBytes: Int64
    /// Size of the file system that holds the containers.
    package var diskBytes: Int64
    package var gpus: Int
    package var gpuType: String?
    /// Nil where a disk quota can be set; else why not.
    package var diskNote: String?
    /// Whether the kernel knows IPv6, so that it must be turned off in sandboxes.
    package var hasIPv6: Bool
    package var resolvers: [IPv4Address]
    package var engine: EngineReport
    /// Nil where quotas of containers that exist cannot be changed.
    package var quotas: DiskQuotas?
    /// Where the engine keeps images and containers.
    package var dataRoot = ""
}

extension HostFacts {
    /// Reads the host. Blocks for a few file reads; for the start only.
    package static func read(_ engine: EngineInformation, _ configuration: RunnerConfiguration) -> HostFacts {
        let diskNote = diskNote(driver: engine.storageDriver, status: engine.storageStatus)
        let quotas = DiskQuotas(driver: engine.storageDriver, dataRoot: engine.dataRoot)
        let gpus = gpuCount(engine)
        return HostFacts(
            architecture: engine.architecture,
            processors: engine.processorCount,
            memoryBytes: engine.memoryBytes,
            diskBytes: fileSystemBytes(engine.dataRoot) ?? fileSystemBytes(configuration.stateDirectory) ?? 0,
            gpus: gpus,
            gpuType: gpus > 0 ? gpuType() : nil,
            diskNote: diskNote,
            hasIPv6: FileManager.default.fileExists(atPath: "/proc/sys/net/ipv6/conf"),
            resolvers: configuration.resolvers.isEmpty ? hostResolvers() : configuration.resolvers,
            engine: report(engine, configuration, diskNote: diskNote, resizes: quotas != nil),
            quotas: quotas,
            dataRoot: engine.dataRoot
        )
    }

    /// Nil where the storage driver can give each container a quota.
    ///
    /// btrfs and zfs can; overlay2 can only on xfs mounted with pquota, which the engine does not tell before it is tried, so
    /// xfs is taken at its word of project quotas: the mount option.
    static func diskNote(driver: String, status: [String: String], mounts: String? = nil) -> String? {
        switch driver {
        case "btrfs", "zfs":
            return nil
        case "overlay2" where status["Backing Filesystem"] == "xfs":
            let mounts = mounts ?? (try? String(contentsOfFile: "/proc/self/mounts", encoding: .utf8)) ?? ""
            let hasQuota = mounts.split(separator: "\n").contains { line in
                let fields = line.split(separator: " ")
                return fields.count > 3 && fields[2] == "xfs"
                    && fields[3].split(separator: ",").contains { $0 == "prjquota" || $0 == "pquota" }
            }
            return hasQuota ? nil : "not enforced: overlay2 on xfs needs the mount option pquota"
        default:
            return
                "not enforced: the storage driver \(driver) has no quota; use btrfs, zfs, or overlay2 on xfs with pquota"
        }
    }

    private static func report(
        _ engine: EngineInformation,
        _ configuration: RunnerConfiguration,
        diskNote: String?,
        resizes: Bool
    ) -> EngineReport {
        var report = EngineReport()
        report.serverVersion = engine.serverVersion
        report.storageDriver = engine.storageDriver
        report.cgroupVersion = engine.cgroupVersion
        report.kernelVersion = engine.kernelVersion
        report.operatingSystem = engine.operatingSystem
        report.runtime = configuration.runtime ?? engine.defaultRuntime
        report.liveRestore = engine.liveRestoreEnabled
        report.enforcesDiskQuota = diskNote == nil
        report.changesDiskQuota = resizes
        report.mountsVolumes = configuration.volumes != nil
        report.warnings = warnings(engine, diskNote: diskNote)
        return report
    }

    private static func warnings(_ engine: EngineInformation, diskNote: String?) -> [String] {
        var warnings: [String] = []
        if let diskNote { warnings.append("disk limits of sandboxes are \(diskNote)") }
        if !engine.liveRestoreEnabled {
            warnings.append("live-restore is off: a restart of Docker restarts every sandbox")
        }
        if !engine.supportsMemoryLimit { warnings.append("the kernel has no memory limit for containers") }
        if !engine.supportsSwapLimit {
            warnings.append("the kernel has no swap limit: memory limits may be passed by swapping")
        }
        if !engine.supportsPidsLimit { warnings.append("the kernel has no limit of processes for containers") }
        if !engine.supportsCPUQuota { warnings.append("the kernel has no CPU quota for containers") }
        if !engine.securityOptions.contains(where: { $0.hasPrefix("name=seccomp") }) {
            warnings.append("the engine has no seccomp: system calls of sandboxes are not filtered")
        }
        return warnings
    }

    private static func gpuCount(_ engine: EngineInformation) -> Int {
        guard engine.runtimes.contains("nvidia") else { return 0 }
        let devices = (try? FileManager.default.contentsOfDirectory(atPath: "/dev")) ?? []
        return devices.count { $0.hasPrefix("nvidia") && Int($0.dropFirst("nvidia".count)) != nil }
    }

    /// The model as the driver says it, in the API's manner: `H100`.
    private static func gpuType() -> String? {
        let root = "/proc/driver/nvidia/gpus"
        guard let first = try? FileManager.default.contentsOfDirectory(atPath: root).sorted().first,
            let text = try? String(contentsOfFile: "\(root)/\(first)/information", encoding: .utf8),
            let line = text.split(separator: "\n").first(where: { $0.hasPrefix("Model:") })
        else { return nil }
        return line.split(separator: " ").last.map(String.init)
    }

    /// How full the file system is that holds images and containers; nil where this process cannot see it.
    package func diskUsage() async -> DiskUsage? {
        let path = dataRoot
        return try? await NIOThreadPool.singleton.runIfActive { DiskUsage(of: path) }
    }

    /// How large the file system is in all.
    static func fileSystemBytes(_ path: String) -> Int64? {
        var answer = statvfs()
        guard statvfs(path, &answer) == 0 else { return nil }
        return Int64(clamping: UInt64(answer.f_blocks) * UInt64(answer.f_frsize))
    }
}

// Resolvers.
extension HostFacts {
    /// Used where the host names none that a sandbox could reach.
    static let publicResolvers = [IPv4Address(rawValue: 0x0101_0101), IPv4Address(rawValue: 0x0808_0808)]
    /// musl and glibc read no more than three.
    static let resolversLimit = 3

    /// A resolver on loopback (systemd-resolved, dnsmasq) is out of a sandbox's reach; systemd keeps the real ones beside.
    private static func hostResolvers() -> [IPv4Address] {
        for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
            let found = resolvers(in: (try? String(contentsOfFile: path, encoding: .utf8)) ?? "")
            if !found.isEmpty { return found }
        }
        return publicResolvers
    }

    static func resolvers(in text: String) -> [IPv4Address] {
        let addresses = text.split(separator: "\n").compactMap { line -> IPv4Address? in
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard words.count >= 2, words[0] == "nameserver" else { return nil }
            return try? IPv4Address(parsing: words[1])
        }
        return Array(addresses.filter(isReachable).prefix(resolversLimit))
    }

    /// Not the host's loopback, and not link-local, which the firewall never opens (a cloud's metadata is there).
    private static func isReachable(_ address: IPv4Address) -> Bool {
        address.rawValue != 0 && address.rawValue >> 24 != 127 && address.rawValue >> 16 != 0xA9FE
    }
}

// What may be promised.
extension HostFacts {
    private static let gib: Int64 = 1 << 30

    package func registration(_ configuration: RunnerConfiguration, slots: Int) -> RunnerRegistration {
        var its = RunnerRegistration(
            version: configuration.version,
            protocolVersion: RunnerService.protocolVersion,
            architecture: architecture
        )
        its.labels = configuration.labels
        its.cpuCapacity = configuration.cpuCapacity ?? Int(Double(processors) * configuration.overcommit.cpu)
        its.memoryCapacityGib =
            configuration.memoryCapacityGib
            ?? Int(Double(memoryBytes) / Double(Self.gib) * configuration.overcommit.memory)
        its.diskCapacityGib =
            configuration.diskCapacityGib ?? Int(Double(diskBytes) / Double(Self.gib) * configuration.overcommit.disk)
        its.gpuCapacity = gpus
        its.gpuType = gpuType
        its.addressSlots = slots
        its.engine = engine
        return its
    }
}
