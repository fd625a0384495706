import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// The host's own processes, known by what they were started with.
enum HostProcesses {
    /// Those whose arguments, the program's name first, are as wanted. Blocks for a few milliseconds. What runs in a sandbox may
    /// bear any arguments it likes, but not our process namespace.
    static func find(_ isWanted: (_ arguments: [String]) -> Bool) -> [pid_t] {
        let ours = namespace(of: "self")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.filter { pid in
            guard let data = try? Data(contentsOf: URL(filePath: "/proc/\(pid)/cmdline")) else { return false }
            return isWanted(words(data)) && namespace(of: "\(pid)") == ours
        }
    }

    /// Each ends with NUL.
    static func words(_ arguments: Data) -> [String] {
        arguments.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    }

    private static func namespace(of process: String) -> String? {
        try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/ns/pid")
    }
}
