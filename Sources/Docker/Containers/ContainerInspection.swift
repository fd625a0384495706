package import FoundationEssentials

/// The states of a container, in the engine's words.
package enum ContainerStatus: String, Sendable, Hashable, CaseIterable, Decodable {
    case created, running, paused, restarting, removing, exited, dead
}

/// `State` of an inspected container.
package struct ContainerState: Sendable, Hashable, Decodable {
    package let status: ContainerStatus
    /// PID 1 of the container in the host's namespace; 0 unless running.
    package let processID: Int32
    package let isOOMKilled: Bool
    /// Of the last run; 0 before the first.
    package let exitCode: Int
    /// Why the last start failed; empty otherwise.
    package let error: String
    /// nil before the first start.
    package let startedAt: Date?
    /// nil before the first end.
    package let finishedAt: Date?

    enum CodingKeys: String, CodingKey {
        case status = "Status"
        case processID = "Pid"
        case isOOMKilled = "OOMKilled"
        case exitCode = "ExitCode"
        case error = "Error"
        case startedAt = "StartedAt"
        case finishedAt = "FinishedAt"
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        status = try container.decode(ContainerStatus.self, forKey: .status)
        processID = try container.decode(Int32.self, forKey: .processID)
        isOOMKilled = try container.decode(Bool.self, forKey: .isOOMKilled)
        exitCode = try container.decode(Int.self, forKey: .exitCode)
        error = try container.decodeIfPresent(String.self, forKey: .error) ?? ""
        startedAt = engineDate(try container.decodeIfPresent(String.self, forKey: .startedAt))
        finishedAt = engineDate(try container.decodeIfPresent(String.self, forKey: .finishedAt))
    }
}

/// A container's place in one network.
package struct EndpointInspection: Sendable, Hashable, Decodable {
    /// Empty unless running.
    package let ipv4Address: String
    /// The fixed address asked for at creation, whether running or not.
    package let configuredIPv4Address: String?
    package let macAddress: String

    enum CodingKeys: String, CodingKey {
        case ipv4Address = "IPAddress"
        case addressing = "IPAMConfig"
        case macAddress = "MacAddress"
    }

    package init(from decoder: any Decoder) throws {
        struct Addressing: Decodable {
            let ipv4: String?
            enum CodingKeys: String, CodingKey { case ipv4 = "IPv4Address" }
        }
        let container = try decoder.container(keyedBy: CodingKeys.self)
        ipv4Address = try container.decodeIfPresent(String.self, forKey: .ipv4Address) ?? ""
        configuredIPv4Address = try container.decodeIfPresent(Addressing.self, forKey: .addressing)?.ipv4
        macAddress = try container.decodeIfPresent(String.self, forKey: .macAddress) ?? ""
    }
}

/// The limits in force on a container; 0 or nil where none is.
package struct ContainerLimits: Sendable, Hashable, Decodable {
    package let memoryBytes: Int64
    /// Memory and swap together; equal to `memoryBytes` when nothing is swapped.
    package let memorySwapBytes: Int64
    package let nanoCPUs: Int64
    package let pidsLimit: Int64
    package let diskQuotaBytes: Int64?
    /// Whether GPUs were asked for.
    package let hasGPUs: Bool

    enum CodingKeys: String, CodingKey {
        case memoryBytes = "Memory"
        case memorySwapBytes = "MemorySwap"
        case nanoCPUs = "NanoCpus"
        case pidsLimit = "PidsLimit"
        case storage = "StorageOpt"
        case devices = "DeviceRequests"
    }

    package init(from decoder: any Decoder) throws {
        struct Device: Decodable {}
        let container = try decoder.container(keyedBy: CodingKeys.self)
        memoryBytes = try container.decodeIfPresent(Int64.self, forKey: .memoryBytes) ?? 0
        memorySwapBytes = try container.decodeIfPresent(Int64.self, forKey: .memorySwapBytes) ?? 0
        nanoCPUs = try container.decodeIfPresent(Int64.self, forKey: .nanoCPUs) ?? 0
        pidsLimit = try container.decodeIfPresent(Int64.self, forKey: .pidsLimit) ?? 0
        diskQuotaBytes = try container.decodeIfPresent([String: String].self, forKey: .storage)?["size"].flatMap {
            Int64($0)
        }
        hasGPUs = !(try container.decodeIfPresent([Device].self, forKey: .devices) ?? []).isEmpty
    }
}

/// `GET /containers/{id}/json`.
package struct ContainerInspection: Sendable, Hashable, Decodable {
    package let id: String
    /// Without the engine's leading slash.
    package let name: String
    package let imageID: String
    package let createdAt: Date?
    package let state: ContainerState
    package let labels: [String: String]
    package let env: [String]
    package let hostname: String
    package let entrypoint: [String]
    package let command: [String]
    package let limits: ContainerLimits
    /// By network name.
    package let networks: [String: EndpointInspection]
    /// Where something of the host's is mounted in it.
    package let mountPoints: [String]
    /// Those of them where the engine keeps files itself, since the image declares a `VOLUME` there.
    package let volumePoints: [String]

    enum CodingKeys: String, CodingKey {
        case id = "Id"
        case name = "Name"
        case imageID = "Image"
        case createdAt = "Created"
        case state = "State"
        case configuration = "Config"
        case limits = "HostConfig"
        case networkSettings = "NetworkSettings"
        case mounts = "Mounts"
    }

    package init(from decoder: any Decoder) throws {
        struct Mount: Decodable {
            let destination: String
            let type: String?
            enum CodingKeys: String, CodingKey {
                case destination = "Destination"
                case type = "Type"
            }
        }
        struct NetworkSettings: Decodable {
            let networks: [String: EndpointInspection]?
            enum CodingKeys: String, CodingKey { case networks = "Networks" }
        }
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(String.self, forKey: .id)
        let slashed = try container.decode(String.self, forKey: .name)
        name = slashed.hasPrefix("/") ? String(slashed.dropFirst()) : slashed
        imageID = try container.decode(String.self, forKey: .imageID)
        createdAt = engineDate(try container.decodeIfPresent(String.self, forKey: .createdAt))
        state = try container.decode(ContainerState.self, forKey: .state)
        let configuration = try container.decode(ProcessConfiguration.self, forKey: .configuration)
        labels = configuration.labels ?? [:]
        env = configuration.env ?? []
        hostname = configuration.hostname ?? ""
        entrypoint = configuration.entrypoint ?? []
        command = configuration.command ?? []
        limits = try container.decode(ContainerLimits.self, forKey: .limits)
        networks = try container.decodeIfPresent(NetworkSettings.self, forKey: .networkSettings)?.networks ?? [:]
        let mounts = try container.decodeIfPresent([Mount].self, forKey: .mounts) ?? []
        mountPoints = mounts.map(\.destination)
        volumePoints = mounts.filter { $0.type == "volume" }.map(\.destination)
    }
}

/// `Config` of a container or image. Any of it may be null.
struct ProcessConfiguration: Decodable {
    let labels: [String: String]?
    let env: [String]?
    let hostname: String?
    let entrypoint: [String]?
    let command: [String]?
    let workingDirectory: String?
    let user: String?
    let exposedPorts: [String: Nothing]?
    let buildTriggers: [String]?
    let volumes: [String: Nothing]?

    struct Nothing: Decodable {}

    enum CodingKeys: String, CodingKey {
        case labels = "Labels"
        case env = "Env"
        case hostname = "Hostname"
        case entrypoint = "Entrypoint"
        case command = "Cmd"
        case workingDirectory = "WorkingDir"
        case user = "User"
        case exposedPorts = "ExposedPorts"
        case buildTriggers = "OnBuild"
        case volumes = "Volumes"
    }
}

/// One line of `GET /containers/json`.
package struct ContainerSummary: Sendable, Hashable, Decodable {
    package let id: String
    /// Without the engine's leading slashes.
    package let names: [String]
    package let imageReference: String
    package let imageID: String
    package let labels: [String: String]
    package let status: ContainerStatus
    /// For people: `Up 3 minutes`.
    package let statusText: String
    package let createdAt: Date

    enum CodingKeys: String, CodingKey {
        case id = "Id"
        case names = "Names"
        case imageReference = "Image"
        case imageID = "ImageID"
        case labels = "Labels"
        case status = "State"
        case statusText = "Status"
        case createdAt = "Created"
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(String.self, forKey: .id)
        // A container under removal may have no name any more.
        let slashed = try container.decodeIfPresent([String].self, forKey: .names) ?? []
        names = slashed.map { $0.hasPrefix("/") ? String($0.dropFirst()) : $0 }
        imageReference = try container.decode(String.self, forKey: .imageReference)
        imageID = try container.decode(String.self, forKey: .imageID)
        labels = try container.decodeIfPresent([String: String].self, forKey: .labels) ?? [:]
        status = try container.decode(ContainerStatus.self, forKey: .status)
        statusText = try container.decodeIfPresent(String.self, forKey: .statusText) ?? ""
        createdAt = Date(timeIntervalSince1970: try container.decode(Double.self, forKey: .createdAt))
    }
}
