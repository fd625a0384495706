import CLinux
import FoundationEssentials
import NIOPosix

#if canImport(Glibc)
    import Glibc
#endif

/// Mounts and unmounts. All of it blocks, so it runs on the threads that may.
enum HostMounts {
    private static let bind: UInt = 4096
    private static let noSetUID: UInt = 2
    private static let noDevices: UInt = 4
    private static let noExecution: UInt = 8
    private static let shared: UInt = 1 << 20
    private static let detach: CInt = 2
    private static let noFollow: CInt = 8

    /// On a thread that may block. They are volumes' own: a large cache that is looked through keeps nothing else waiting.
    static func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await threads.runIfActive(body)
    }

    private static let threads: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: threadsLimit)
        pool.start()
        return pool
    }()

    private static let threadsLimit = 4

    /// A small file system that nobody but us writes to, whose mounts appear in the containers that show a part of it.
    static func mountSlots(at path: String) throws {
        if try MountTable.read().top(at: path)?.type != "tmpfs" {
            let flags = noSetUID | noDevices | noExecution
            guard mount("martlet", path, "tmpfs", flags, "size=1m,mode=0755") == 0 else {
                throw failure("mount a tmpfs on \(path)")
            }
        }
        guard mount(nil, path, nil, shared, nil) == 0 else { throw failure("share \(path)") }
    }

    /// Shows a folder, named by its descriptor, at a path.
    static func show(_ folder: CInt, at path: String) throws {
        guard mount("/proc/self/fd/\(folder)", path, nil, bind, nil) == 0 else { throw failure("mount on \(path)") }
    }

    /// Takes away all that is mounted on a path. What is open there stays usable, or broken, for who has it open.
    static func clear(_ path: String) throws {
        for _ in 0..<Self.layersLimit {
            guard umount2(path, detach | noFollow) == 0 else {
                if errno == EINVAL || errno == ENOENT { return }
                throw failure("unmount \(path)")
            }
        }
    }

    private static let layersLimit = 64

    /// Asks the file system at a path for a sign of life. False for one whose process is gone; hangs where that hangs.
    static func isAnswering(_ path: String) -> Bool {
        var answer = statvfs()
        return statvfs(path, &answer) == 0
    }

    /// Opens a folder of a volume, made if it is absent, step by step and never through a link: whatever is in the volume, what
    /// comes out is within it. The caller closes it.
    static func open(_ subpath: String?, below root: String) throws -> CInt {
        var folder = Glibc.open(root, martlet_o_path | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw failure("open \(root)") }
        for component in (subpath ?? "").split(separator: "/") {
            guard component != "..", component != "." else {
                close(folder)
                throw RunnerError(.volume, "subpath '\(subpath ?? "")' is not normalized")
            }
            let next = step(into: String(component), of: folder)
            let trouble = errno
            close(folder)
            guard next >= 0 else {
                throw RunnerError(
                    .volume,
                    trouble == ENOTDIR || trouble == ELOOP
                        ? "subpath '\(subpath ?? "")' leads through '\(component)', which is a link or a file and not a folder"
                        : "cannot open subpath '\(subpath ?? "")': \(String(cString: strerror(trouble)))"
                )
            }
            folder = next
        }
        return folder
    }

    private static func step(into name: String, of folder: CInt) -> CInt {
        let flags = martlet_o_path | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
        let found = openat(folder, name, flags)
        guard found < 0, errno == ENOENT else { return found }
        guard mkdirat(folder, name, 0o777) == 0 || errno == EEXIST else { return -1 }
        return openat(folder, name, flags)
    }

    private static func failure(_ what: String) -> RunnerError {
        let hint =
            errno == EPERM || errno == EACCES
            ? "; the runner needs CAP_SYS_ADMIN and must not be confined from mounting" : ""
        return RunnerError(.volume, "cannot \(what): \(String(cString: strerror(errno)))\(hint)")
    }
}
