import Domain
import FoundationEssentials
import Subprocess

#if canImport(Glibc)
    import Glibc
#endif

/// The processes of rclone that serve mounts of ours, found by what they were started with. They are nobody's children, so
/// there is nothing to wait for but their end.
enum VolumeProcesses {
    /// All processes that serve a mount point. Blocks for a few milliseconds. What runs in a sandbox may bear any arguments it
    /// likes, but not our process namespace.
    static func serving(_ mountPoint: String) -> [pid_t] { serving { $0 == mountPoint } }

    /// Those of all volumes.
    static func serving(_ folders: VolumeFolders) -> [pid_t] { serving { folders.volume(mountedAt: $0) != nil } }

    private static func serving(_ isMountPoint: (String) -> Bool) -> [pid_t] {
        let ours = namespace(of: "self")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.filter { pid in
            guard let data = try? Data(contentsOf: URL(filePath: "/proc/\(pid)/cmdline")) else { return false }
            return isServing(isMountPoint, arguments: data) && namespace(of: "\(pid)") == ours
        }
    }

    private static func namespace(of process: String) -> String? {
        try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/ns/pid")
    }

    /// `rclone`, NUL, `mount`, NUL, …, and the mount point as a word of its own.
    static func isServing(_ isMountPoint: (String) -> Bool, arguments: Data) -> Bool {
        let words = arguments.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        return words.count > 2 && words[1] == "mount" && words.contains(where: isMountPoint)
            && words.contains("--daemon")
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
    static func limitFiles(of pid: pid_t, to bytes: Int?) async throws {
        // The soft limit only: the hard one can be raised by nobody but root with all its capabilities.
        let limit = bytes.map { "\($0)" } ?? "unlimited"
        let result = try await Subprocess.run(
            .name("prlimit"),
            arguments: ["--pid", "\(pid)", "--fsize=\(limit):"],
            environment: .custom(["PATH": "/usr/sbin:/usr/bin:/sbin:/bin"]),
            input: .none,
            output: .discarded,
            error: .string(limit: 4096)
        )
        if result.terminationStatus.isSuccess || kill(pid, 0) != 0 { return }
        throw RunnerError(
            .volume,
            "prlimit (of util-linux) cannot limit the files of process \(pid): \(result.standardError)"
        )
    }
}
