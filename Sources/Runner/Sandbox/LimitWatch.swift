package import Docker
package import Store
import FoundationEssentials
import NIOPosix
import Synchronization

/// Reads what running sandboxes ran into: memory, processes, disk.
///
/// The truth is the kernel's counters, which are compared with the row: by a survey every few seconds, and at once when the
/// engine says `oom`. So a lost event delays a report and loses none, nor does a crash of the runner. (What a run counted
/// after the last look is lost with its control group when it ends. An end by lack of memory is reported as the sandbox's own.)
///
/// A sandbox that runs into a limit for ever is reported once in ``reportInterval``, with the sum of what happened.
package final class LimitWatch: Sendable {
    package static let reportInterval: Duration = .seconds(60)

    private struct Entry {
        var counter: LimitCounter
        var reportedAt: Duration?
    }

    /// By container.
    private let entries = Mutex<[String: Entry]>([:])
    private let quotas: DiskQuotas?

    package init(quotas: DiskQuotas?) { self.quotas = quotas }

    /// The container was seen to run. Its control group has the same name in each of its runs.
    package func note(_ found: ContainerInspection) {
        guard found.state.processID > 0, entries.withLock({ $0[found.id] == nil }),
            let counter = LimitCounter(process: found.state.processID, container: found.id)
        else { return }
        entries.withLock { $0[found.id] = Entry(counter: counter) }
    }

    /// What the container's present run ran into; nil where that is not known, or was reported a moment ago.
    package func reached(_ container: String, now: Duration) async -> LimitsReached? {
        guard let entry = entries.withLock({ $0[container] }) else { return nil }
        if let last = entry.reportedAt, now - last < Self.reportInterval { return nil }
        let quotas = quotas
        return try? await NIOThreadPool.singleton.runIfActive {
            guard var reached = entry.counter.read() else { return nil }
            reached.isDiskFull = quotas?.quota(of: container)?.isFull ?? false
            return reached
        }
    }

    /// The row has it.
    package func noteReport(_ container: String, now: Duration) {
        entries.withLock { $0[container]?.reportedAt = now }
    }

    /// Forgets all other containers.
    package func keep(_ containers: Set<String>) {
        entries.withLock { entries in entries = entries.filter { containers.contains($0.key) } }
    }
}

/// The files in which the kernel counts for one control group, version 1 or 2.
package struct LimitCounter: Sendable, Hashable {
    package let memoryFile: String
    package let pidsFile: String

    private static let root = "/sys/fs/cgroup"

    /// Nil if the process is not (any more) in a control group of the container.
    package init?(process: Int32, container: String) {
        guard let text = try? String(contentsOfFile: "/proc/\(process)/cgroup", encoding: .utf8) else { return nil }
        self.init(groups: text, container: container)
    }

    /// - Parameter groups: lines `number:controllers:path` of /proc/<pid>/cgroup.
    package init?(groups: String, container: String) {
        var (memory, pids, unified) = (String?.none, String?.none, String?.none)
        for line in groups.split(separator: "\n") {
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3, fields[2].contains(container) else { continue }
            let controllers = fields[1].split(separator: ",")
            if controllers.contains("memory") { memory = "\(Self.root)/memory\(fields[2])/memory.oom_control" }
            if controllers.contains("pids") { pids = "\(Self.root)/pids\(fields[2])/pids.events" }
            if fields[1].isEmpty { unified = "\(Self.root)\(fields[2])" }
        }
        guard let memory = memory ?? unified.map({ "\($0)/memory.events" }),
            let pids = pids ?? unified.map({ "\($0)/pids.events" })
        else { return nil }
        (memoryFile, pidsFile) = (memory, pids)
    }

    /// Nil once the group is gone. A kernel that does not count says 0.
    func read() -> LimitsReached? {
        guard let memory = try? String(contentsOfFile: memoryFile, encoding: .utf8),
            let pids = try? String(contentsOfFile: pidsFile, encoding: .utf8)
        else { return nil }
        var reached = LimitsReached()
        reached.memoryKills = Self.number("oom_kill", in: memory) ?? 0
        reached.refusedForks = Self.number("max", in: pids) ?? 0
        return reached
    }

    private static func number(_ key: String, in text: String) -> Int64? {
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count == 2, words[0] == key { return Int64(words[1]) }
        }
        return nil
    }
}
