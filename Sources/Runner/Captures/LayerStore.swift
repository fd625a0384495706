import CLinux
import Crypto
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// Where the engine's btrfs driver keeps the files of containers and image layers, and frozen copies of the former. The engine has
/// no call that gives a container's files whole: its own commit leaves out attributes and takes links apart. This is how it keeps
/// house (the same from 18.06 to 28; see also ``DiskQuotas``):
///
///     <root>/image/btrfs/layerdb/mounts/<container>/mount-id    names the container's subvolume
///     <root>/image/btrfs/layerdb/sha256/<chain>/cache-id        names that of a layer with all below it
///     <root>/image/btrfs/imagedb/content/sha256/<image>         an image's configuration, as it was made
///     <root>/btrfs/subvolumes/<name>                            the subvolumes
///     <root>/btrfs/martlet/<job>                                ours: read-only copies while they are read
///
/// All of it blocks.
struct LayerStore: Sendable {
    private let root: String

    /// Throws ``CaptureRefused`` where the driver is another, or does not keep house so.
    init(driver: String, dataRoot: String) throws {
        guard driver == "btrfs", FileManager.default.fileExists(atPath: "\(dataRoot)/btrfs/subvolumes") else {
            throw CaptureRefused(
                "the engine of this runner keeps files by the storage driver '\(driver)', whose containers cannot be captured; it must be btrfs"
            )
        }
        root = dataRoot
    }

    // MARK: - Images

    /// The configuration of an image, byte for byte.
    func configuration(ofImage id: String) throws -> Data {
        let digest = id.hasPrefix("sha256:") ? String(id.dropFirst(7)) : id
        guard isDigest(digest) else { throw CaptureTrouble("the engine's image id '\(id)' is no digest") }
        let path = "\(root)/image/btrfs/imagedb/content/sha256/\(digest)"
        do {
            return try Data(contentsOf: URL(filePath: path))
        } catch {
            throw CaptureTrouble("cannot read \(path): \(error)")
        }
    }

    /// The folder with the files of these layers, the lowest first. Nil for none.
    func folder(ofLayers layers: [String]) throws -> String? {
        guard let chain = Self.chain(of: layers) else { return nil }
        return try subvolume(namedBy: "\(root)/image/btrfs/layerdb/sha256/\(chain)/cache-id")
    }

    /// The name of layers that lie upon each other: a hash of the lower ones' name and the uppermost.
    static func chain(of layers: [String]) -> String? {
        layers.reduce(nil as String?) { below, layer in
            guard let below else { return layer }
            return "sha256:" + SHA256.hash(data: Data("\(below) \(layer)".utf8)).hexadecimal
        }.map { String($0.dropFirst("sha256:".count)) }
    }

    // MARK: - Containers

    /// Freezes the files of a container as they are at this moment; returns the folder. A copy of the same name that somebody left
    /// is replaced.
    func freeze(container: String, as name: String) throws -> String {
        let source = try subvolume(namedBy: "\(root)/image/btrfs/layerdb/mounts/\(container)/mount-id")
        try FileManager.default.createDirectory(atPath: frozenFolder, withIntermediateDirectories: true)
        try remove(frozen: name)
        let result = martlet_btrfs_snapshot(source, frozenFolder, name)
        guard result == 0 else { throw CaptureTrouble("cannot freeze \(source): \(words(-result))") }
        return "\(frozenFolder)/\(name)"
    }

    /// It is gone afterwards.
    func remove(frozen name: String) throws {
        let result = martlet_btrfs_remove_subvolume(frozenFolder, name)
        guard result == 0 || result == -ENOENT else {
            throw CaptureTrouble("cannot remove \(frozenFolder)/\(name): \(words(-result))")
        }
    }

    /// Removes those whose name begins so: what a former process left.
    func removeFrozen(beginningWith prefix: String) {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: frozenFolder)) ?? []
        where name.hasPrefix(prefix) {
            try? remove(frozen: name)
        }
    }

    private var frozenFolder: String { "\(root)/btrfs/martlet" }

    private func subvolume(namedBy path: String) throws -> String {
        guard let name = try? String(contentsOfFile: path, encoding: .utf8), !name.isEmpty, isDigest(name) else {
            throw CaptureTrouble("cannot read \(path), which names a subvolume")
        }
        return "\(root)/btrfs/subvolumes/\(name)"
    }
}

private func isDigest(_ text: String) -> Bool {
    text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
}

/// The files of a sandbox cannot be captured, however often it is tried.
struct CaptureRefused: Error, Hashable, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A capture failed for a reason that may pass.
struct CaptureTrouble: Error, Hashable, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

func words(_ number: CInt) -> String { String(cString: strerror(number)) }
