import CLinux
import FoundationEssentials
import Glibc
import Hummingbird
import NIOCore
import Synchronization

/// What the sandbox uses of what it may use (WIRE-CONTRACT 5.12). Limits and use come from its cgroup, version 1 or 2.
package final class SystemMetrics: Sendable {
    private struct Answer: Encodable {
        var cpuCount: Int
        var cpuUsedPct: Double
        var memTotal: Int
        var memUsed: Int
        var memCache: Int
        var diskTotal: Int
        /// Unknown where the file system does not tell how much of the quota is used.
        var diskUsed: Int?
        var diskFree: Int?
        var timestamp: String
        var timestampUnix: Int
    }

    private struct Sample: Sendable {
        var usedNanoseconds: Int
        var taken: ContinuousClock.Instant
    }

    /// With no earlier call to compare with, the processor time is measured over this.
    private static let window = Duration.milliseconds(100)
    /// An earlier call counts only if it is no older.
    private static let windowLimit = Duration.seconds(60)

    private let files: ControlGroupFiles
    private let diskLimitBytes = Mutex<Int?>(nil)
    private let last = Mutex<Sample?>(nil)

    package init(_ files: ControlGroupFiles) { self.files = files }

    /// The sandbox's disk quota, where one is enforced.
    package func setDiskLimit(_ bytes: Int) { diskLimitBytes.withLock { $0 = bytes } }

    /// `GET /system/metrics`
    func answer(_ call: ToolboxCall) async throws -> Response {
        let cpuLimit = try await onBlockingThread { [files] in files.processorLimit() }
        let cpus = cpuLimit ?? Double(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        let used = try await processorUse()
        let diskLimitBytes = diskLimitBytes.withLock { $0 }
        let answer = try await onBlockingThread { [files] in
            let memory = files.memory()
            var (total, free, freeToRoot) = (UInt64(0), UInt64(0), UInt64(0))
            _ = martlet_space("/", &total, &free, &freeToRoot)
            // btrfs shows the whole disk in a subvolume with a quota; xfs shows the quota itself.
            let showsQuota = diskLimitBytes.map { total <= UInt64($0) + UInt64($0) / 8 } ?? true
            let now = Date.now
            return Answer(
                cpuCount: max(1, Int(cpus.rounded(.up))),
                cpuUsedPct: (used / cpus * 10_000).rounded() / 100,
                memTotal: memory.total,
                memUsed: memory.used,
                memCache: memory.cache,
                diskTotal: showsQuota ? Int(total) : diskLimitBytes ?? Int(total),
                diskUsed: showsQuota ? Int(total - freeToRoot) : nil,
                diskFree: showsQuota ? Int(free) : nil,
                timestamp: isoTimestamp(now),
                timestampUnix: Int(now.timeIntervalSince1970)
            )
        }
        return try jsonResponse(answer)
    }

    /// Processors in use on average since the last call, or over a short window.
    private func processorUse() async throws -> Double {
        let now = sample()
        let before = last.withLock { last in
            defer { last = now }
            return last
        }
        if let before, now.taken - before.taken > .milliseconds(50), now.taken - before.taken < Self.windowLimit {
            return rate(from: before, to: now)
        }
        try await Task.sleep(for: Self.window)
        return rate(from: now, to: sample())
    }

    private func sample() -> Sample {
        Sample(usedNanoseconds: files.processorNanoseconds(), taken: .now)
    }

    private func rate(from: Sample, to: Sample) -> Double {
        let elapsed = (to.taken - from.taken) / .nanoseconds(1)
        return elapsed > 0 ? max(0, Double(to.usedNanoseconds - from.usedNanoseconds) / elapsed) : 0
    }
}

/// The cgroup's files as they are seen inside the sandbox. Reading them blocks, but only on the kernel.
package struct ControlGroupFiles: Sendable {
    private let root: String
    let isUnified: Bool

    /// - Parameter root: where they are mounted.
    package init(root: String = "/sys/fs/cgroup") {
        self.root = root
        isUnified = access("\(root)/cgroup.controllers", F_OK) == 0
    }

    /// Processors that may be used, nil if not limited.
    package func processorLimit() -> Double? {
        if isUnified {
            let parts = (read("cpu.max") ?? "").split { $0 == " " || $0 == "\n" }
            guard parts.count == 2, let quota = Double(parts[0]), let period = Double(parts[1]), period > 0 else {
                return nil
            }
            return quota / period
        }
        guard let quota = number("cpu,cpuacct/cpu.cfs_quota_us") ?? number("cpu/cpu.cfs_quota_us"), quota > 0,
            let period = number("cpu,cpuacct/cpu.cfs_period_us") ?? number("cpu/cpu.cfs_period_us"), period > 0
        else { return nil }
        return Double(quota) / Double(period)
    }

    /// Processor time used since the cgroup was made.
    package func processorNanoseconds() -> Int {
        if isUnified { return (field("usage_usec", of: "cpu.stat") ?? 0) * 1000 }
        return number("cpu,cpuacct/cpuacct.usage") ?? number("cpuacct/cpuacct.usage") ?? 0
    }

    /// Limit (the machine's if there is none), use without cache, and cache, in bytes.
    package func memory() -> (total: Int, used: Int, cache: Int) {
        let machine = machineMemory()
        let limit = isUnified ? number("memory.max") : number("memory/memory.limit_in_bytes")
        let usage = isUnified ? number("memory.current") : number("memory/memory.usage_in_bytes")
        let cache = isUnified ? field("file", of: "memory.stat") : field("total_cache", of: "memory/memory.stat")
        return (min(limit ?? machine, machine), max(0, (usage ?? 0) - (cache ?? 0)), cache ?? 0)
    }

    /// Processes and threads that there may be at a time; nil if not limited.
    func processLimit() -> Int? { number(isUnified ? "pids.max" : "pids/pids.max") }

    private func machineMemory() -> Int {
        sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
    }

    private func number(_ name: String) -> Int? {
        read(name).flatMap { Int($0.prefix { $0 != "\n" }) }
    }

    func field(_ key: String, of name: String) -> Int? {
        for line in (read(name) ?? "").split(separator: "\n") {
            let parts = line.split(separator: " ")
            if parts.count == 2, parts[0] == key { return Int(parts[1]) }
        }
        return nil
    }

    private func read(_ name: String) -> String? {
        guard let file = try? OpenFile.open("\(root)/\(name)", O_RDONLY, to: "read") else { return nil }
        return (try? file.read(16 << 10, at: 0)).map { String(buffer: $0) }
    }
}
