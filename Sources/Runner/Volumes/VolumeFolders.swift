package import Domain
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// Where a runner keeps what volumes need.
///
///     <root>/rclone.conf            endpoint and keys, 0600
///     <root>/slots/                 a small file system of its own, shared with the containers' mount namespaces
///     <root>/slots/<slot>           empty folder; what is mounted on it appears in the container
///     <root>/<volume>/mnt           the volume
///     <root>/<volume>/cache         what was read, and what is not in S3 yet
///     <root>/<volume>/rc            rclone's own interface
///     <root>/<volume>/log
package struct VolumeFolders: Sendable, Hashable {
    /// The longest path of a Unix socket.
    static let socketPathLimit = 107

    package let root: String

    package init(root: String) { self.root = root }

    var configuration: String { "\(root)/rclone.conf" }
    var slots: String { "\(root)/slots" }
    func folder(of volume: VolumeID) -> String { "\(root)/\(volume)" }
    func mountPoint(of volume: VolumeID) -> String { "\(root)/\(volume)/mnt" }
    func cache(of volume: VolumeID) -> String { "\(root)/\(volume)/cache" }
    func socket(of volume: VolumeID) -> String { "\(root)/\(volume)/rc" }
    func log(of volume: VolumeID) -> String { "\(root)/\(volume)/log" }

    package func path(of slot: VolumeSlot) -> String { "\(slots)/\(slot)" }

    /// The slot that has this path.
    func slot(at path: String) -> VolumeSlot? {
        guard path.hasPrefix(slots + "/") else { return nil }
        return VolumeSlot(path.dropFirst(slots.utf8.count + 1))
    }

    /// The volume whose mount point has this path.
    func volume(mountedAt path: String) -> VolumeID? {
        guard path.hasPrefix(root + "/"), path.hasSuffix("/mnt") else { return nil }
        return VolumeID(path.dropFirst(root.utf8.count + 1).dropLast("/mnt".utf8.count))
    }

    /// Volumes that have a folder here. Throws if that cannot be read.
    func volumes() throws -> [VolumeID] {
        try FileManager.default.contentsOfDirectory(atPath: root).compactMap { VolumeID($0) }
    }

    /// Makes what all volumes share. Throws `misconfigured` or `stateDirectory`.
    func prepare(_ storage: VolumeStorage) throws {
        guard socket(of: .random()).utf8.count <= Self.socketPathLimit else {
            throw RunnerError(
                .misconfigured,
                "the state directory's path is too long for the sockets of volumes (\(root)); choose a shorter one"
            )
        }
        try makeFolder(root, mode: 0o700)
        try writeConfiguration(try storage.configuration())
        try makeFolder(slots, mode: 0o755)
    }

    /// 0600 from its first byte on, and put in place whole.
    private func writeConfiguration(_ text: String) throws {
        let draft = configuration + ".new"
        unlink(draft)
        let file = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw Self.failure("write \(draft)") }
        defer { close(file) }
        let bytes = Array(text.utf8)
        guard write(file, bytes, bytes.count) == bytes.count, rename(draft, configuration) == 0 else {
            throw Self.failure("write \(configuration)")
        }
    }

    func makeFolder(_ path: String, mode: mode_t) throws {
        guard mkdir(path, mode) == 0 || errno == EEXIST else { throw Self.failure("make the folder \(path)") }
    }

    static func failure(_ what: String) -> RunnerError {
        RunnerError(.stateDirectory, "cannot \(what): \(String(cString: strerror(errno)))")
    }
}

/// One place of a sandbox's container where a volume appears.
package struct VolumeSlot: Sendable, Hashable, Comparable, CustomStringConvertible {
    package var sandbox: SandboxID
    package var epoch: Int64
    /// Its number in the list of the sandbox's volumes.
    package var index: Int

    package init(sandbox: SandboxID, epoch: Int64, index: Int) {
        self.sandbox = sandbox
        self.epoch = epoch
        self.index = index
    }

    package init?(_ text: some StringProtocol) {
        let words = text.dropFirst(37).split(separator: "-", omittingEmptySubsequences: false)
        guard let sandbox = SandboxID(text.prefix(36)), words.count == 2, words[0].hasPrefix("e"),
            let epoch = Int64(words[0].dropFirst()), let index = Int(words[1])
        else { return nil }
        self.init(sandbox: sandbox, epoch: epoch, index: index)
        guard description == text else { return nil }
    }

    package var description: String { "\(sandbox)-e\(epoch)-\(index)" }

    package static func < (left: VolumeSlot, right: VolumeSlot) -> Bool { left.description < right.description }
}
