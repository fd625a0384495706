import NIOHTTP1

/// What a running container uses at one moment. Counters only grow; rates are differences of two readings.
package struct ContainerStatistics: Sendable, Hashable {
    /// Without the reclaimable page cache, as `docker stats` counts.
    package let memoryUsageBytes: Int64
    package let memoryLimitBytes: Int64
    package let cpuTotalNanoseconds: UInt64
    package let systemCPUNanoseconds: UInt64
    package let onlineCPUs: Int
    package let processCount: Int
    /// Over all interfaces.
    package let receivedBytes: UInt64
    package let transmittedBytes: UInt64
}

extension DockerEngine {
    /// Reads a container's use once, without the engine's one-second sampling. One that is not running has zeros.
    package func statistics(_ id: String) async throws -> ContainerStatistics {
        let call = try EngineCall(
            "read statistics of container \(id)",
            .GET,
            ["containers", id, "stats"],
            query: [("stream", "false"), ("one-shot", "true")]
        )
        return ContainerStatistics(try await value(StatisticsAnswer.self, call, within: limits.call))
    }
}

extension ContainerStatistics {
    init(_ answer: StatisticsAnswer) {
        let usage = answer.memory?.usage ?? 0
        // cgroup v1 names it total_inactive_file, v2 inactive_file.
        let cache = answer.memory?.details?["total_inactive_file"] ?? answer.memory?.details?["inactive_file"] ?? 0
        memoryUsageBytes = Int64(clamping: usage > cache ? usage - cache : 0)
        memoryLimitBytes = Int64(clamping: answer.memory?.limit ?? 0)
        cpuTotalNanoseconds = answer.cpu?.usage?.total ?? 0
        systemCPUNanoseconds = answer.cpu?.system ?? 0
        onlineCPUs = answer.cpu?.online ?? 0
        processCount = answer.pids?.current ?? 0
        let interfaces = (answer.networks ?? [:]).values
        receivedBytes = interfaces.reduce(0) { $0 &+ $1.received }
        transmittedBytes = interfaces.reduce(0) { $0 &+ $1.transmitted }
    }
}

/// `GET /containers/{id}/stats`. Everything is absent for a container that does not run.
struct StatisticsAnswer: Decodable, Sendable {
    struct Memory: Decodable {
        let usage: UInt64?
        let limit: UInt64?
        let details: [String: UInt64]?
        enum CodingKeys: String, CodingKey {
            case usage, limit
            case details = "stats"
        }
    }

    struct CPU: Decodable {
        struct Usage: Decodable {
            let total: UInt64?
            enum CodingKeys: String, CodingKey { case total = "total_usage" }
        }
        let usage: Usage?
        let system: UInt64?
        let online: Int?
        enum CodingKeys: String, CodingKey {
            case usage = "cpu_usage"
            case system = "system_cpu_usage"
            case online = "online_cpus"
        }
    }

    struct Pids: Decodable {
        let current: Int?
    }

    struct Interface: Decodable {
        let received: UInt64
        let transmitted: UInt64
        enum CodingKeys: String, CodingKey {
            case received = "rx_bytes"
            case transmitted = "tx_bytes"
        }
    }

    let memory: Memory?
    let cpu: CPU?
    let pids: Pids?
    let networks: [String: Interface]?

    enum CodingKeys: String, CodingKey {
        case memory = "memory_stats"
        case cpu = "cpu_stats"
        case pids = "pids_stats"
        case networks
    }
}
