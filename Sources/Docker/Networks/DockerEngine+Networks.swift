import NIOHTTP1

extension DockerEngine {
    /// Creates a bridge network and returns its id. A second one of the same name throws `.conflict`.
    package func createNetwork(_ specification: NetworkSpecification) async throws -> String {
        struct Answer: Decodable {
            let id: String
            enum CodingKeys: String, CodingKey { case id = "Id" }
        }
        let call = try EngineCall(
            "create network \(specification.name)",
            .POST,
            ["networks", "create"],
            body: .json(specification.request)
        )
        return try await value(Answer.self, call, within: limits.lifecycle).id
    }

    /// Reads a network by name or id. An absent one throws `.notFound`.
    package func inspectNetwork(_ nameOrID: String) async throws -> NetworkInspection {
        let call = try EngineCall("inspect network \(nameOrID)", .GET, ["networks", nameOrID])
        return try await value(NetworkInspection.self, call, within: limits.call)
    }

    /// Lists networks bearing all `labels`. `containers` is always empty in a list.
    package func listNetworks(labels: [String: String?] = [:]) async throws -> [NetworkInspection] {
        let query = [("filters", try labelFilters(labels).encodedText())]
        return try await value(
            [NetworkInspection].self,
            EngineCall("list networks", .GET, ["networks"], query: query),
            within: limits.call
        )
    }

    /// Removes what a network keeps of a container that the engine has forgotten, by the name that it had.
    package func forgetEndpoint(of container: String, in network: String) async throws {
        let call = try EngineCall(
            "disconnect \(container) from \(network)",
            .POST,
            ["networks", network, "disconnect"],
            body: .json(.object(["Container": .string(container), "Force": .bool(true)]))
        )
        try await send(call, within: limits.lifecycle)
    }

    /// Removes a network. An absent one throws `.notFound`; one in use `.server` (the engine answers 403).
    package func removeNetwork(_ nameOrID: String) async throws {
        try await send(
            EngineCall("remove network \(nameOrID)", .DELETE, ["networks", nameOrID]),
            within: limits.lifecycle
        )
    }
}

/// A bridge network for sandboxes. IPv6 cannot be asked for.
package struct NetworkSpecification: Sendable, Hashable {
    package var name: String
    /// Name of the kernel's interface, at most 15 bytes.
    package var bridgeName: String
    /// For example `10.88.0.0/16`; nil lets the engine choose one that is free on the host.
    package var subnet: String?
    /// The bridge's own address; nil for the subnet's first.
    package var gateway: String?
    /// Part of the subnet from which the engine picks addresses that are not fixed; nil for all of it.
    package var ipRange: String?
    package var labels: [String: String]
    package var mtu: Int?
    /// Whether containers may speak to each other, as far as the engine's own rules go.
    package var allowsInterContainerTraffic: Bool
    /// Whether the engine translates the containers' addresses on the way out.
    package var masquerades: Bool
    /// Whether the engine leaves the network without a way out.
    package var isInternal: Bool

    package init(
        name: String,
        bridgeName: String,
        subnet: String? = nil,
        gateway: String? = nil,
        ipRange: String? = nil,
        labels: [String: String] = [:],
        mtu: Int? = nil,
        allowsInterContainerTraffic: Bool = false,
        masquerades: Bool = true,
        isInternal: Bool = false
    ) {
        self.name = name
        self.bridgeName = bridgeName
        self.subnet = subnet
        self.gateway = gateway
        self.ipRange = ipRange
        self.labels = labels
        self.mtu = mtu
        self.allowsInterContainerTraffic = allowsInterContainerTraffic
        self.masquerades = masquerades
        self.isInternal = isInternal
    }

    var request: JSONValue {
        var options = [
            "com.docker.network.bridge.name": bridgeName,
            "com.docker.network.bridge.enable_icc": String(allowsInterContainerTraffic),
            "com.docker.network.bridge.enable_ip_masquerade": String(masquerades),
        ]
        if let mtu { options["com.docker.network.driver.mtu"] = String(mtu) }
        let addresses = JSONValue.members([
            "Subnet": subnet.map { .string($0) },
            "Gateway": gateway.map { .string($0) },
            "IPRange": ipRange.map { .string($0) },
        ])
        return .object([
            "Name": .string(name),
            "CheckDuplicate": .bool(true),
            "Driver": .string("bridge"),
            "EnableIPv6": .bool(false),
            "Internal": .bool(isInternal),
            "Labels": .strings(labels),
            "Options": .strings(options),
            "IPAM": .object(["Driver": .string("default"), "Config": .array(subnet == nil ? [] : [addresses])]),
        ])
    }
}

/// `GET /networks/{id}`.
package struct NetworkInspection: Sendable, Hashable, Decodable {
    /// One range of a network.
    package struct Subnet: Sendable, Hashable, Decodable {
        package let subnet: String
        package let gateway: String?

        enum CodingKeys: String, CodingKey {
            case subnet = "Subnet"
            case gateway = "Gateway"
        }
    }

    /// A running container in the network.
    package struct Member: Sendable, Hashable, Decodable {
        package let name: String
        /// With prefix: `10.88.0.2/16`.
        package let ipv4Address: String
        package let macAddress: String

        enum CodingKeys: String, CodingKey {
            case name = "Name"
            case ipv4Address = "IPv4Address"
            case macAddress = "MacAddress"
        }
    }

    package let id: String
    package let name: String
    package let driver: String
    package let subnets: [Subnet]
    package let labels: [String: String]
    package let options: [String: String]
    /// By container id, only running ones; and by `ep-…` what belongs to no container, or to none yet.
    package let containers: [String: Member]
    package let isIPv6Enabled: Bool

    /// Name of the kernel's interface, if it was given at creation.
    package var bridgeName: String? { options["com.docker.network.bridge.name"] }

    enum CodingKeys: String, CodingKey {
        case id = "Id"
        case name = "Name"
        case driver = "Driver"
        case addresses = "IPAM"
        case labels = "Labels"
        case options = "Options"
        case containers = "Containers"
        case isIPv6Enabled = "EnableIPv6"
    }

    package init(from decoder: any Decoder) throws {
        struct Addresses: Decodable {
            let subnets: [Subnet]?
            enum CodingKeys: String, CodingKey { case subnets = "Config" }
        }
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(String.self, forKey: .id)
        name = try container.decode(String.self, forKey: .name)
        driver = try container.decode(String.self, forKey: .driver)
        subnets = try container.decodeIfPresent(Addresses.self, forKey: .addresses)?.subnets ?? []
        labels = try container.decodeIfPresent([String: String].self, forKey: .labels) ?? [:]
        options = try container.decodeIfPresent([String: String].self, forKey: .options) ?? [:]
        containers = try container.decodeIfPresent([String: Member].self, forKey: .containers) ?? [:]
        isIPv6Enabled = try container.decodeIfPresent(Bool.self, forKey: .isIPv6Enabled) ?? false
    }
}
