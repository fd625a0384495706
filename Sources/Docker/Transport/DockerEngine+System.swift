import NIOHTTP1

extension DockerEngine {
    /// Returns when the engine answers.
    package func ping() async throws {
        try await send(EngineCall("ping the engine", .GET, ["_ping"]), within: limits.call)
    }

    /// What the engine and its host can do.
    package func information() async throws -> EngineInformation {
        try await value(
            EngineInformation.self,
            EngineCall("read the engine's information", .GET, ["info"]),
            within: limits.call
        )
    }
}

/// `GET /info`, the parts that decide what a host can enforce.
package struct EngineInformation: Sendable, Hashable, Decodable {
    package let serverVersion: String
    /// `overlay2`, `btrfs`, …
    package let storageDriver: String
    /// The driver's own words, for example `Backing Filesystem: xfs`, `Supports d_type: true`.
    package let storageStatus: [String: String]
    /// 1 or 2.
    package let cgroupVersion: Int
    package let cgroupDriver: String
    /// Names of the OCI runtimes.
    package let runtimes: [String]
    package let defaultRuntime: String
    /// For example `name=seccomp,profile=default`.
    package let securityOptions: [String]
    package let processorCount: Int
    package let memoryBytes: Int64
    /// In the kernel's words: `x86_64`, `aarch64`.
    package let architecture: String
    package let kernelVersion: String
    package let operatingSystem: String
    /// Where the engine keeps its data; its file system is the one that fills.
    package let dataRoot: String
    /// Whether containers survive a restart of the engine.
    package let liveRestoreEnabled: Bool
    package let containersRunning: Int
    package let supportsMemoryLimit: Bool
    package let supportsSwapLimit: Bool
    package let supportsPidsLimit: Bool
    package let supportsCPUQuota: Bool

    enum CodingKeys: String, CodingKey {
        case serverVersion = "ServerVersion"
        case storageDriver = "Driver"
        case storageStatus = "DriverStatus"
        case cgroupVersion = "CgroupVersion"
        case cgroupDriver = "CgroupDriver"
        case runtimes = "Runtimes"
        case defaultRuntime = "DefaultRuntime"
        case securityOptions = "SecurityOptions"
        case processorCount = "NCPU"
        case memoryBytes = "MemTotal"
        case architecture = "Architecture"
        case kernelVersion = "KernelVersion"
        case operatingSystem = "OperatingSystem"
        case dataRoot = "DockerRootDir"
        case liveRestoreEnabled = "LiveRestoreEnabled"
        case containersRunning = "ContainersRunning"
        case supportsMemoryLimit = "MemoryLimit"
        case supportsSwapLimit = "SwapLimit"
        case supportsPidsLimit = "PidsLimit"
        case supportsCPUQuota = "CpuCfsQuota"
    }

    package init(from decoder: any Decoder) throws {
        struct Anything: Decodable {}
        let container = try decoder.container(keyedBy: CodingKeys.self)
        serverVersion = try container.decode(String.self, forKey: .serverVersion)
        storageDriver = try container.decode(String.self, forKey: .storageDriver)
        let status = try container.decodeIfPresent([[String]].self, forKey: .storageStatus) ?? []
        storageStatus = Dictionary(status.compactMap { $0.count == 2 ? ($0[0], $0[1]) : nil }) { first, _ in first }
        // An engine that does not say is from before cgroup v2.
        cgroupVersion = Int(try container.decodeIfPresent(String.self, forKey: .cgroupVersion) ?? "1") ?? 1
        cgroupDriver = try container.decodeIfPresent(String.self, forKey: .cgroupDriver) ?? ""
        runtimes = try container.decodeIfPresent([String: Anything].self, forKey: .runtimes)?.keys.sorted() ?? []
        defaultRuntime = try container.decodeIfPresent(String.self, forKey: .defaultRuntime) ?? ""
        securityOptions = try container.decodeIfPresent([String].self, forKey: .securityOptions) ?? []
        processorCount = try container.decode(Int.self, forKey: .processorCount)
        memoryBytes = try container.decode(Int64.self, forKey: .memoryBytes)
        architecture = try container.decode(String.self, forKey: .architecture)
        kernelVersion = try container.decodeIfPresent(String.self, forKey: .kernelVersion) ?? ""
        operatingSystem = try container.decodeIfPresent(String.self, forKey: .operatingSystem) ?? ""
        dataRoot = try container.decode(String.self, forKey: .dataRoot)
        liveRestoreEnabled = try container.decodeIfPresent(Bool.self, forKey: .liveRestoreEnabled) ?? false
        containersRunning = try container.decodeIfPresent(Int.self, forKey: .containersRunning) ?? 0
        supportsMemoryLimit = try container.decodeIfPresent(Bool.self, forKey: .supportsMemoryLimit) ?? false
        supportsSwapLimit = try container.decodeIfPresent(Bool.self, forKey: .supportsSwapLimit) ?? false
        supportsPidsLimit = try container.decodeIfPresent(Bool.self, forKey: .supportsPidsLimit) ?? false
        supportsCPUQuota = try container.decodeIfPresent(Bool.self, forKey: .supportsCPUQuota) ?? false
    }
}
