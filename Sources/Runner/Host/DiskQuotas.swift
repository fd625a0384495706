import CLinux
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// How much a container's disk holds, and how much it may hold.
package struct DiskQuota: Sendable, Hashable {
    /// As of the file system's last commit, up to half a minute ago.
    package var usedBytes: Int64
    package var limitBytes: Int64

    /// Full but for what no program can make use of: writes are refused before the last byte is taken.
    package var isFull: Bool { limitBytes - usedBytes < max(limitBytes / 100, 1 << 20) }
}

/// Reads and changes the disk quotas of containers that exist. The engine has no call for either, so this knows how its btrfs
/// driver keeps house (the same from 18.06 to 28):
///
///     <root>/image/btrfs/layerdb/mounts/<container>/mount-id    names the container's subvolume
///     <root>/btrfs/subvolumes/<mount>                           the subvolume; its quota group has the limit
///     <root>/btrfs/quotas/<mount>                               the limit in decimal, which the driver puts in force anew at
///                                                               each mount, so at each start
///
/// A change writes the file first and the group then. Whatever is cut off in between, the next pass reads the group and does
/// both again. All of it blocks, as a rule for microseconds.
package struct DiskQuotas: Sendable, Hashable {
    private let root: String

    /// Nil where the driver is another, or does not keep house so. (The folders further down come with the first container,
    /// which may be later than this look.)
    package init?(driver: String, dataRoot: String) {
        guard driver == "btrfs" else { return nil }
        root = dataRoot
        for folder in ["image/btrfs", "btrfs"] {
            guard FileManager.default.fileExists(atPath: "\(root)/\(folder)") else { return nil }
        }
    }

    /// Nil where none is known: the container is gone, or has no limit.
    package func quota(of container: String) -> DiskQuota? {
        guard let mount = try? mount(of: container) else { return nil }
        var (used, limit) = (UInt64(0), UInt64(0))
        guard martlet_btrfs_quota(subvolume(mount), &used, &limit) == 0, limit > 0 else { return nil }
        return DiskQuota(usedBytes: Int64(clamping: used), limitBytes: Int64(clamping: limit))
    }

    /// The container's disk may hold so much from now on, also after its next start. Throws `diskQuota`.
    package func setLimit(_ bytes: Int64, of container: String) throws {
        let mount = try mount(of: container)
        try remember(bytes, mount)
        let result = martlet_btrfs_set_quota(subvolume(mount), UInt64(bytes))
        guard result == 0 else { throw Self.failure("limit \(subvolume(mount))", -result) }
    }

    private func subvolume(_ mount: String) -> String { "\(root)/btrfs/subvolumes/\(mount)" }

    private func mount(of container: String) throws -> String {
        let path = "\(root)/image/btrfs/layerdb/mounts/\(container)/mount-id"
        guard let text = try? String(contentsOfFile: path, encoding: .utf8), !text.isEmpty,
            text.utf8.allSatisfy({ Self.isHexadecimal($0) })
        else { throw RunnerError(.diskQuota, "cannot read \(path), which names the container's subvolume") }
        return text
    }

    private static func isHexadecimal(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
    }

    /// Whole or not at all: a half number would be in force at the next start.
    private func remember(_ bytes: Int64, _ mount: String) throws {
        let (folder, draft) = ("\(root)/btrfs/quotas", "\(root)/btrfs/quotas/.\(mount).martlet")
        do {
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            try Data("\(bytes)".utf8).write(to: URL(filePath: draft))
        } catch {
            throw RunnerError(.diskQuota, "cannot write \(draft): \(error)")
        }
        guard rename(draft, "\(folder)/\(mount)") == 0 else { throw Self.failure("write \(folder)/\(mount)", errno) }
    }

    private static func failure(_ what: String, _ number: CInt) -> RunnerError {
        RunnerError(.diskQuota, "cannot \(what): \(String(cString: strerror(number)))")
    }
}
