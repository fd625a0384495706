import NIOHTTP1

extension DockerEngine {
    /// Creates a container and does not start it. A second try with the same name throws `.conflict`; a missing image `.notFound`.
    package func createContainer(named name: String, _ specification: ContainerSpecification) async throws
        -> CreatedContainer
    {
        let operation = "create container \(name)"
        try specification.check(operation: operation)
        let call = try EngineCall(
            operation,
            .POST,
            ["containers", "create"],
            query: [("name", name)],
            body: .json(specification.request)
        )
        return try await value(CreatedContainer.self, call, within: limits.lifecycle)
    }

    /// Starts a container; one that runs already is success.
    package func startContainer(_ id: String) async throws {
        try await send(
            EngineCall("start container \(id)", .POST, ["containers", id, "start"]),
            within: limits.lifecycle
        )
    }

    /// Sends the stop signal, and SIGKILL after `grace`; returns when the container is down. One that is down already is success.
    package func stopContainer(_ id: String, grace: Duration) async throws {
        let seconds = max(0, grace.components.seconds)
        let call = try EngineCall(
            "stop container \(id)",
            .POST,
            ["containers", id, "stop"],
            query: [("t", String(seconds))]
        )
        try await send(call, within: grace + limits.lifecycle)
    }

    /// Sends `signal` to the container's PID 1. One that is not running throws `.conflict`.
    package func killContainer(_ id: String, signal: String = "SIGKILL") async throws {
        let call = try EngineCall(
            "kill container \(id)",
            .POST,
            ["containers", id, "kill"],
            query: [("signal", signal)]
        )
        try await send(call, within: limits.call)
    }

    /// Removes a container, with `force` even a running one, and its anonymous volumes.
    /// An absent one throws `.notFound`; one whose removal is under way `.conflict`.
    package func removeContainer(_ id: String, force: Bool = false, volumes: Bool = true) async throws {
        let call = try EngineCall(
            "remove container \(id)",
            .DELETE,
            ["containers", id],
            query: [("force", String(force)), ("v", String(volumes))]
        )
        try await send(call, within: limits.lifecycle)
    }

    /// Reads a container's state and configuration.
    package func inspectContainer(_ id: String) async throws -> ContainerInspection {
        let call = try EngineCall("inspect container \(id)", .GET, ["containers", id, "json"])
        return try await value(ContainerInspection.self, call, within: limits.call)
    }

    /// Lists containers bearing all `labels`; a nil value asks only for the label's presence.
    package func listContainers(labels: [String: String?] = [:], network: String? = nil, all: Bool = true) async throws
        -> [ContainerSummary]
    {
        let call = try EngineCall(
            "list containers",
            .GET,
            ["containers", "json"],
            query: [
                ("all", String(all)),
                ("filters", try labelFilters(labels, adding: network.map { ["network": [$0]] } ?? [:]).encodedText()),
            ]
        )
        return try await value([ContainerSummary].self, call, within: limits.call)
    }

    /// Changes limits of a container, running or not. Memory and swap change together.
    package func updateContainer(_ id: String, _ resources: ResourceUpdate) async throws {
        let body = JSONValue.members([
            "Memory": resources.memoryBytes.map { .integer($0) },
            "MemorySwap": resources.memoryBytes.map { .integer($0) },
            "NanoCpus": resources.nanoCPUs.map { .integer($0) },
            "PidsLimit": resources.pidsLimit.map { .integer($0) },
        ])
        let call = try EngineCall("update container \(id)", .POST, ["containers", id, "update"], body: .json(body))
        try await send(call, within: limits.call)
    }

    /// Waits until a container is not running. Throws `.timeout` after `limit`.
    package func waitContainer(_ id: String, within limit: Duration) async throws -> ContainerExit {
        let call = try EngineCall(
            "wait for container \(id)",
            .POST,
            ["containers", id, "wait"],
            query: [("condition", "not-running")]
        )
        return try await value(ContainerExit.self, call, within: limit)
    }
}

/// The engine's notation of filters: name → values. A nil label value asks for presence.
func labelFilters(_ labels: [String: String?], adding others: [String: [String]] = [:]) -> JSONValue {
    let terms = labels.map { key, value in value.map { "\(key)=\($0)" } ?? key }.sorted()
    var filters = others.mapValues { JSONValue.strings($0) }
    if !terms.isEmpty { filters["label"] = .strings(terms) }
    return .object(filters)
}

extension JSONValue {
    func encodedText() throws -> String { String(decoding: try encoded(), as: UTF8.self) }
}

/// What `createContainer` made.
package struct CreatedContainer: Sendable, Hashable, Decodable {
    package let id: String
    /// What the engine ignored, for example a limit that the kernel lacks.
    package let warnings: [String]

    enum CodingKeys: String, CodingKey {
        case id = "Id"
        case warnings = "Warnings"
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        id = try container.decode(String.self, forKey: .id)
        warnings = try container.decodeIfPresent([String].self, forKey: .warnings) ?? []
    }
}

/// How a container ended.
package struct ContainerExit: Sendable, Hashable, Decodable {
    package let statusCode: Int
    /// The engine's trouble with waiting, if any.
    package let error: String?

    enum CodingKeys: String, CodingKey {
        case statusCode = "StatusCode"
        case error = "Error"
    }

    package init(from decoder: any Decoder) throws {
        struct Trouble: Decodable {
            let message: String?
            enum CodingKeys: String, CodingKey { case message = "Message" }
        }
        let container = try decoder.container(keyedBy: CodingKeys.self)
        statusCode = try container.decode(Int.self, forKey: .statusCode)
        error = try container.decodeIfPresent(Trouble.self, forKey: .error)?.message
    }
}
