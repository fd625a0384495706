import Crypto
import Domain
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// The runner's own directory: what must survive its restart.
///
///     <path>/ingress.secret      32 random bytes, 0600
///     <path>/ingress.pem         made by the ingress
///     <path>/daemon/<hash>/martlet-daemon
package struct StateDirectory: Sendable {
    package let path: String

    /// Makes the directory (0700) and those above it, if they are absent.
    package init(_ path: String) throws {
        self.path = path
        try? FileManager.default.createDirectory(
            at: URL(filePath: path).deletingLastPathComponent(),
            withIntermediateDirectories: true
        )
        try Self.make(path, mode: 0o700)
    }

    /// The secret under which proxies sign; made at the first start.
    package func secret() throws -> [UInt8] {
        let file = path + "/ingress.secret"
        if let bytes = try Self.readIfPresent(file) {
            guard bytes.count >= 32 else {
                throw RunnerError(
                    .stateDirectory,
                    "\(file) has \(bytes.count) bytes instead of 32; remove it to have a new one made"
                )
            }
            return bytes
        }
        var generator = SystemRandomNumberGenerator()
        let bytes = (0..<32).map { _ in UInt8.random(in: 0...255, using: &generator) }
        try Self.write(bytes, to: file, mode: 0o600)
        return bytes
    }

    /// A copy of the daemon named by its content: containers keep the one they were made with.
    package func installDaemon(from source: String) throws -> DaemonCopy {
        let input = open(source, O_RDONLY | O_CLOEXEC)
        guard input >= 0 else {
            throw RunnerError(
                .misconfigured,
                "the daemon \(source) cannot be read (\(Self.trouble)); set the daemon's path to the static martlet-daemon"
            )
        }
        defer { close(input) }
        let hash = String(try Self.hash(of: input, source).prefix(16))
        let copy = DaemonCopy(hash: hash, directory: "\(path)/daemon/\(hash)")
        let file = "\(copy.directory)/\(DaemonCopy.fileName)"
        // Put there by rename, so what has the name is whole.
        if FileManager.default.fileExists(atPath: file) { return copy }
        try Self.make(path + "/daemon", mode: 0o711)
        try Self.make(copy.directory, mode: 0o755)
        lseek(input, 0, SEEK_SET)
        try Self.write(to: file, mode: 0o755) { try Self.nextChunk(of: input, source) }
        return copy
    }

    private static func hash(of input: CInt, _ path: String) throws -> String {
        var hasher = SHA256()
        while let chunk = try nextChunk(of: input, path) { hasher.update(data: chunk) }
        return hasher.finalize().hexadecimal
    }

    private static let chunkBytes = 1 << 20

    private static func nextChunk(of input: CInt, _ path: String) throws -> [UInt8]? {
        let chunk = try [UInt8](unsafeUninitializedCapacity: chunkBytes) { buffer, count in
            let got = read(input, buffer.baseAddress, buffer.count)
            guard got >= 0 else { throw failure("read", path) }
            count = got
        }
        return chunk.isEmpty ? nil : chunk
    }

    /// Removes copies that are not in `kept`. Returns the removed.
    package func removeDaemons(except kept: Set<String>) throws -> [String] {
        let present = (try? FileManager.default.contentsOfDirectory(atPath: path + "/daemon")) ?? []
        let removed = present.filter { !kept.contains($0) }
        for hash in removed { try FileManager.default.removeItem(atPath: "\(path)/daemon/\(hash)") }
        return removed
    }

    private static func make(_ path: String, mode: mode_t) throws {
        guard mkdir(path, mode) == 0 || errno == EEXIST else { throw failure("make the directory", path) }
    }

    private static func readIfPresent(_ path: String) throws -> [UInt8]? {
        guard FileManager.default.fileExists(atPath: path) else { return nil }
        do {
            return Array(try Data(contentsOf: URL(filePath: path)))
        } catch {
            throw RunnerError(.stateDirectory, "cannot read \(path): \(error)")
        }
    }

    private static func write(_ bytes: [UInt8], to path: String, mode: mode_t) throws {
        var rest: [UInt8]? = bytes
        try write(to: path, mode: mode) {
            defer { rest = nil }
            return rest
        }
    }

    /// Whole or not at all.
    private static func write(to path: String, mode: mode_t, _ nextChunk: () throws -> [UInt8]?) throws {
        let draft = path + ".new"
        unlink(draft)
        let file = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)
        guard file >= 0 else { throw failure("write", draft) }
        defer { close(file) }
        while let chunk = try nextChunk() { try writeAll(chunk, to: file, draft) }
        guard fchmod(file, mode) == 0, fsync(file) == 0, rename(draft, path) == 0 else { throw failure("write", path) }
    }

    private static func writeAll(_ bytes: [UInt8], to file: CInt, _ path: String) throws {
        var written = 0
        while written < bytes.count {
            let count = bytes[written...].withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
            guard count > 0 else { throw failure("write", path) }
            written += count
        }
    }

    private static func failure(_ verb: String, _ path: String) -> RunnerError {
        RunnerError(.stateDirectory, "cannot \(verb) \(path): \(trouble)")
    }

    private static var trouble: String { String(cString: strerror(errno)) }
}

/// One installed version of the daemon.
package struct DaemonCopy: Sendable, Hashable {
    static let fileName = "martlet-daemon"
    /// Where its directory is mounted, read-only, in every sandbox.
    package static let mountPoint = "/.martlet/bin"
    package static let pathInSandbox = "\(mountPoint)/\(fileName)"

    package let hash: String
    package let directory: String
}
