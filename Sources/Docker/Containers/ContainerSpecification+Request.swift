extension ContainerSpecification {
    /// The body of `POST /containers/create`. Pure.
    var request: JSONValue {
        .members([
            "Image": .string(image),
            "User": user.map { .string($0) },
            "Env": .strings(env),
            "WorkingDir": workingDirectory.map { .string($0) },
            "Entrypoint": entrypoint.map { .strings($0) },
            "Cmd": command.map { .strings($0) },
            "Labels": .strings(labels),
            "Hostname": hostname.map { .string($0) },
            "StopSignal": stopSignal.map { .string($0) },
            "Tty": .bool(false),
            "OpenStdin": .bool(false),
            "NetworkDisabled": .bool(network == .none),
            // The older place of it; from API 1.44 on it is read from the endpoint, and both must agree.
            "MacAddress": hardwareAddress.map { .string($0) },
            "HostConfig": .members(
                limits.merging(isolation) { first, _ in first }.merging(surroundings) { first, _ in first }
            ),
            "NetworkingConfig": networking,
        ])
    }

    private var limits: [String: JSONValue?] {
        [
            "Memory": .integer(memoryBytes),
            "MemorySwap": .integer(memoryBytes),
            "MemorySwappiness": nil,
            "NanoCpus": .integer(nanoCPUs),
            "CpuShares": cpuShares.map { .integer($0) },
            "PidsLimit": .integer(pidsLimit),
            "Ulimits": [.openFiles(openFilesLimit), .noCoreDumps],
            "ShmSize": shmBytes.map { .integer($0) },
            "StorageOpt": diskQuotaBytes.map { .strings(["size": String($0)]) },
            "OomScoreAdj": .integer(Int64(oomScoreAdjustment)),
            "LogConfig": .object([
                "Type": .string("json-file"),
                "Config": .strings(["max-size": String(log.maxFileBytes), "max-file": String(log.maxFiles)]),
            ]),
        ]
    }

    private var isolation: [String: JSONValue?] {
        [
            "Privileged": .bool(false),
            "CapDrop": .strings(["ALL"]),
            "CapAdd": .strings(capabilities.map(\.rawValue).sorted()),
            "SecurityOpt": .strings(securityOptions),
            "IpcMode": .string("private"),
            "ReadonlyRootfs": .bool(isReadOnlyRoot),
            "Runtime": runtime.map { .string($0) },
            "Sysctls": .strings(sysctls),
            "DeviceRequests": gpus.map { [$0.request] },
        ]
    }

    private var surroundings: [String: JSONValue?] {
        [
            "Init": .bool(usesInit),
            "RestartPolicy": .object(["Name": .string("no")]),
            "NetworkMode": .string(networkMode),
            "Dns": .strings(dnsServers),
            "DnsSearch": .strings(dnsSearch),
            "ExtraHosts": .strings(extraHosts),
            "Mounts": .array(binds.map(\.request)),
            "Tmpfs": .strings(Dictionary(temporaryFilesystems.map { ($0.target, $0.options) }) { _, last in last }),
        ]
    }

    private var securityOptions: [String] {
        var options: [String] = []
        if noNewPrivileges { options.append("no-new-privileges:true") }
        if let seccompProfile { options.append("seccomp=\(seccompProfile)") }
        if let appArmorProfile { options.append("apparmor=\(appArmorProfile)") }
        return options
    }

    private var networkMode: String {
        switch network {
        case .none: "none"
        case .bridge(let name, _, _): name
        }
    }

    private var networking: JSONValue? {
        guard case .bridge(let name, let ipv4, let mac) = network else { return nil }
        let addressing = ipv4.map { JSONValue.object(["IPv4Address": .string($0)]) }
        let endpoint = JSONValue.members(["IPAMConfig": addressing, "MacAddress": mac.map { .string($0) }])
        return .object(["EndpointsConfig": .object([name: endpoint])])
    }

    private var hardwareAddress: String? {
        guard case .bridge(_, _, let mac) = network else { return nil }
        return mac
    }
}

extension ContainerSpecification {
    /// Refuses what must not reach the engine: values that switch a protection off, or that it would silently ignore.
    func check(operation: String) throws {
        func require(_ isMet: Bool, _ message: @autoclosure () -> String) throws {
            guard isMet else { throw DockerError.refused(operation: operation, message()) }
        }
        try require(
            memoryBytes >= Self.memoryBytesMinimum,
            "memoryBytes is \(memoryBytes); at least \(Self.memoryBytesMinimum) is needed"
        )
        try require(
            nanoCPUs >= Self.nanoCPUsMinimum,
            "nanoCPUs is \(nanoCPUs); at least \(Self.nanoCPUsMinimum) is needed"
        )
        try require(pidsLimit > 0, "pidsLimit is \(pidsLimit); it must be positive")
        try require(openFilesLimit > 0, "openFilesLimit is \(openFilesLimit); it must be positive")
        try require(
            diskQuotaBytes.map { $0 > 0 } ?? true,
            "diskQuotaBytes is \(diskQuotaBytes ?? 0); it must be positive"
        )
        try require(log.maxFileBytes > 0 && log.maxFiles > 0, "log limits must be positive")
        try require(seccompProfile.map { $0.hasPrefix("{") } ?? true, "seccompProfile must be a JSON document")
        try require(appArmorProfile != "unconfined", "appArmorProfile 'unconfined' would switch AppArmor off")
        for name in sysctls.keys {
            try require(
                name.hasPrefix("net.") || name.hasPrefix("fs.mqueue."),
                "sysctl '\(name)' is not namespaced to a container"
            )
        }
        if case .bridge(let name, _, _) = network {
            try require(!Self.reservedNetworks.contains(name), "network '\(name)' is not a bridge network of ours")
            try require(!name.hasPrefix("container:"), "network '\(name)' is another container's namespace")
        }
        for bind in binds {
            try require(
                bind.source.hasPrefix("/") && bind.target.hasPrefix("/"),
                "bind \(bind.source):\(bind.target) must be absolute"
            )
            try require(!bind.source.hasSuffix("docker.sock"), "bind \(bind.source) would hand over the host")
        }
    }

    /// Docker 20.10 refuses less than 6 MiB.
    static let memoryBytesMinimum: Int64 = 6 << 20
    /// One hundredth of a CPU, the kernel's smallest quota.
    static let nanoCPUsMinimum: Int64 = 10_000_000
    private static let reservedNetworks: Set<String> = ["host", "bridge", "default", "none", ""]
}

extension JSONValue: ExpressibleByArrayLiteral {
    package init(arrayLiteral elements: JSONValue...) { self = .array(elements) }

    fileprivate static func openFiles(_ limit: Int64) -> JSONValue {
        .object(["Name": .string("nofile"), "Soft": .integer(limit), "Hard": .integer(limit)])
    }

    /// A core dump would go wherever the host's core_pattern says.
    fileprivate static var noCoreDumps: JSONValue {
        .object(["Name": .string("core"), "Soft": .integer(0), "Hard": .integer(0)])
    }
}

extension BindMount {
    fileprivate var request: JSONValue {
        .object([
            "Type": .string("bind"),
            "Source": .string(source),
            "Target": .string(target),
            "ReadOnly": .bool(isReadOnly),
            "BindOptions": .object(["Propagation": .string(propagation.rawValue)]),
        ])
    }
}

extension TemporaryFilesystem {
    fileprivate var options: String { "rw,nosuid,nodev,size=\(sizeBytes),mode=\(String(mode, radix: 8))" }
}

extension GPURequest {
    fileprivate var request: JSONValue {
        let selection: [String: JSONValue] =
            switch self {
            case .count(let count): ["Count": .integer(Int64(count))]
            case .devices(let identifiers): ["DeviceIDs": .strings(identifiers)]
            }
        return .object(
            selection.merging([
                "Driver": .string("nvidia"),
                "Capabilities": .array([.strings(["gpu"])]),
            ]) { first, _ in first }
        )
    }
}
