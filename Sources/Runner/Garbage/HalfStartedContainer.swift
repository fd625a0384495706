import FoundationEssentials
import NIOPosix

#if canImport(Glibc)
    import Glibc
#endif

/// What is left when the engine is killed in the middle of a container's start: a process that waits for ever to become the
/// program (`runc init`), its shim, and the network interface in its namespace. The engine does not know of it: it does not
/// end it when the container is removed, and until it is gone it refuses to start the container ("task … already exists").
enum HalfStartedContainer {
    /// Kills what is left of a container that does not run, by the name of its control group.
    ///
    /// To be called only when the engine says that it does not run, or is gone. Returns how many processes were killed, which is
    /// none as a rule: then it costs a few look-ups of absent files.
    static func end(_ container: String) async -> Int {
        let count = try? await NIOThreadPool.singleton.runIfActive { endNow(container) }
        return count ?? 0
    }

    private static func endNow(_ container: String) -> Int {
        guard container.utf8.count == 64, container.utf8.allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }) else {
            return 0
        }
        let processes = Set(groups(of: container).flatMap { members(of: $0) })
        let shims = Set(processes.compactMap { shim(of: $0) })
        for process in processes.union(shims) { kill(process, SIGKILL) }
        return processes.count + shims.count
    }

    /// Where the engine puts it: version 1 or 2 of control groups, with either of its drivers.
    static func groups(of container: String) -> [String] {
        ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"].flatMap { root in
            ["\(root)/docker/\(container)", "\(root)/system.slice/docker-\(container).scope"]
        }
    }

    private static func members(of group: String) -> [pid_t] {
        guard let text = try? String(contentsOfFile: "\(group)/cgroup.procs", encoding: .utf8) else { return [] }
        return text.split(separator: "\n").compactMap { pid_t($0) }.filter { $0 > 1 }
    }

    /// The parent, if that is the shim, which would otherwise keep the engine from starting the container again.
    private static func shim(of process: pid_t) -> pid_t? {
        guard let status = try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8),
            let end = status.lastIndex(of: ")"),
            let parent = pid_t(status[end...].split(separator: " ").dropFirst(2).first ?? ""), parent > 1,
            let name = try? String(contentsOfFile: "/proc/\(parent)/comm", encoding: .utf8),
            name.hasPrefix("containerd-shim")
        else { return nil }
        return parent
    }
}
