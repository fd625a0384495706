import CLinux
import Domain
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// The processes of rclone that serve mounts of ours, found by what they were started with. They are nobody's children, so
/// there is nothing to wait for but their end.
enum VolumeProcesses {
    /// All processes that serve a mount point. Blocks for a few milliseconds.
    static func serving(_ mountPoint: String) -> [pid_t] {
        HostProcesses.find { isServing(mountPoint, arguments: $0) }
    }

    /// Those of all volumes.
    static func serving(_ folders: VolumeFolders) -> [pid_t] {
        HostProcesses.find { words in
            words.contains { folders.volume(mountedAt: $0) != nil && isServing($0, arguments: words) }
        }
    }

    /// `rclone mount …`, with the mount point as a word of its own.
    static func isServing(_ mountPoint: String, arguments: [String]) -> Bool {
        arguments.count > 2 && arguments[1] == "mount" && arguments.contains(mountPoint)
            && arguments.contains("--daemon")
    }

    /// Ends them: asks, waits, kills. They are gone when this returns.
    static func end(serving mountPoint: String) async throws {
        for (signal, patience) in [(SIGTERM, Duration.seconds(3)), (SIGKILL, .seconds(10))] {
            let found = try await HostMounts.run { serving(mountPoint) }
            if found.isEmpty { return }
            for pid in found { kill(pid, signal) }
            if try await areGone(mountPoint, within: patience) { return }
        }
        throw RunnerError(.volume, "the process that serves \(mountPoint) cannot be killed; look at /proc/<pid>/stack")
    }

    static func areGone(_ mountPoint: String, within limit: Duration) async throws -> Bool {
        let deadline = ContinuousClock.now + limit
        while true {
            if try await HostMounts.run({ serving(mountPoint).isEmpty }) { return true }
            if ContinuousClock.now >= deadline { return false }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    /// How large a file may be that the process writes; nil for as large as it likes. What is larger already stays.
    static func limitFiles(of pid: pid_t, to bytes: UInt64?) throws {
        // The soft limit only: the hard one can be raised by nobody but root with all its capabilities.
        let result = martlet_limit_files(pid, bytes ?? .max)
        guard result == 0 || result == -ESRCH else {
            throw RunnerError(
                .volume,
                "cannot limit the files of process \(pid): \(String(cString: strerror(-result)))"
            )
        }
    }
}
