import FoundationEssentials
import NIOPosix

#if canImport(Glibc)
    import Glibc
#endif

/// What is left when the engine is killed in the middle of a container's start: a process that waits for ever to become the
/// program (`runc init`), its shim, and the network interface in its namespace. The engine does not know of it: it does not
/// end it when the container is removed, and until it is gone it refuses to start the container ("task … already exists").
enum HalfStartedContainer {
    /// Kills what is left of a container that does not run, where its control group is left.
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
        let groups = groups(of: container).filter { access($0, F_OK) == 0 }
        if groups.isEmpty { return 0 }
        // A shim may outlive its process, and then nothing but its arguments tells whose it was.
        let left = Set(groups.flatMap { members(of: $0) } + HostProcesses.find { isShim(of: container, arguments: $0) })
        for process in left { kill(process, SIGKILL) }
        return left.count
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

    /// `containerd-shim-… -id <container>`, of whatever OCI runtime.
    static func isShim(of container: String, arguments: [String]) -> Bool {
        guard let program = arguments.first?.split(separator: "/").last, program.hasPrefix("containerd-shim") else {
            return false
        }
        return zip(arguments, arguments.dropFirst()).contains { $0 == ("-id", container) }
    }
}
