import CLinux
import Crypto
import Domain
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#endif

/// Where the engine keeps the files of containers and image layers. It has no call that gives a container's files whole: its own
/// commit leaves out attributes and takes links apart. This is how its drivers keep house (the same from 18.06 to 28; see also
/// ``DiskQuotas``):
///
///     <root>/image/<driver>/layerdb/mounts/<container>/mount-id    names the container's folder
///     <root>/image/<driver>/layerdb/sha256/<chain>/cache-id        names that of a layer
///     <root>/image/<driver>/imagedb/content/sha256/<image>         an image's configuration, as it was made
///     <root>/btrfs/subvolumes/<name>                               a subvolume with all files, those of the layers below too
///     <root>/btrfs/martlet/<job>                                   ours: read-only copies while they are read
///     <root>/overlay2/<name>/diff                                  only what the layer, or the container, has of its own
///
/// Between a container and its image's layers, overlay2 has one more, `<name>-init`, with what the engine mounts things on.
///
/// All of it blocks.
struct LayerStore: Sendable {
    private enum Driver: String { case btrfs, overlay2 }

    private let driver: Driver
    private let root: String

    /// Throws ``CaptureRefused`` where the driver is another, or does not keep house so.
    init(driver: String, dataRoot: String) throws {
        guard let known = Driver(rawValue: driver),
            FileManager.default.fileExists(atPath: "\(dataRoot)/\(known == .btrfs ? "btrfs/subvolumes" : "overlay2/l")")
        else {
            throw CaptureRefused(
                "the engine of this runner keeps files by the storage driver '\(driver)', whose containers cannot be captured; it must be btrfs or overlay2"
            )
        }
        self.driver = known
        root = dataRoot
    }

    // MARK: - Images

    /// The configuration of an image, byte for byte.
    func configuration(ofImage id: String) throws -> Data {
        guard let all = ImageConfigurations(driver: driver.rawValue, dataRoot: root) else {
            throw CaptureTrouble("\(root)/image/\(driver) has no configurations of images")
        }
        return try all.read(id)
    }

    /// The folder of the uppermost of these layers, the lowest first. Nil for none.
    private func folder(ofLayers layers: [String]) throws -> String? {
        guard let chain = Self.chain(of: layers) else { return nil }
        return try folder(namedBy: "\(root)/image/\(driver)/layerdb/sha256/\(chain)/cache-id")
    }

    /// A folder for each of these layers, the uppermost first.
    private func folders(ofLayers layers: [String]) throws -> [String] {
        try layers.indices.reversed().compactMap { try folder(ofLayers: Array(layers[...$0])) }
    }

    /// The name of layers that lie upon each other: a hash of the lower ones' name and the uppermost.
    static func chain(of layers: [String]) -> String? {
        layers.reduce(nil as String?) { below, layer in
            guard let below else { return layer }
            return "sha256:" + SHA256.hash(data: Data("\(below) \(layer)".utf8)).hexadecimal
        }.map { String($0.dropFirst("sha256:".count)) }
    }

    // MARK: - Containers

    /// Whether frozen files are a copy. Those that are none stand still only as long as their sandbox does.
    var freezesCopies: Bool { driver == .btrfs }

    /// The files of a container as they are at this moment. A copy of the same name that somebody left is replaced.
    func freeze(container: String, as name: String, madeOf image: CapturedImage) throws -> FrozenFiles {
        let own = try folder(namedBy: "\(root)/image/\(driver)/layerdb/mounts/\(container)/mount-id")
        switch driver {
        case .btrfs:
            let base = try folder(ofLayers: image.base)
            try copy(own, as: name)
            return .whole("\(frozenFolder)/\(name)", over: base)
        case .overlay2:
            let layers = try folders(ofLayers: image.layers)
            let above = image.layers.count - image.base.count
            return .differences([own] + layers.prefix(above), over: Array(layers.dropFirst(above)))
        }
    }

    /// About how much a container has of its own; 0 where the engine does not count it.
    func ownBytes(of container: String, madeOf image: CapturedImage) throws -> Int64 {
        guard freezesCopies else { return 0 }
        let own = try folder(namedBy: "\(root)/image/\(driver)/layerdb/mounts/\(container)/mount-id")
        return max(0, countedBytes(own) - (try folder(ofLayers: image.base).map(countedBytes) ?? 0))
    }

    /// What of a container's quota is an image's; 0 where the engine does not count it.
    func quotaBytes(ofImage id: String) throws -> Int64 {
        guard freezesCopies else { return 0 }
        return try folder(ofLayers: CapturedImage(of: configuration(ofImage: id)).layers).map(countedBytes) ?? 0
    }

    private static let believedBytes: UInt64 = 1 << 60

    private func countedBytes(_ subvolume: String) -> Int64 {
        var (used, limit) = (UInt64(0), UInt64(0))
        let isCounted = martlet_btrfs_quota(subvolume, &used, &limit) == 0
        // The kernel is known to count to below none, which reads as 16 EiB.
        return isCounted && used <= Self.believedBytes ? Int64(used) : 0
    }

    private func copy(_ subvolume: String, as name: String) throws {
        try FileManager.default.createDirectory(atPath: frozenFolder, withIntermediateDirectories: true)
        try remove(frozen: name)
        let result = martlet_btrfs_snapshot(subvolume, frozenFolder, name)
        guard result == 0 else { throw CaptureTrouble("cannot freeze \(subvolume): \(words(-result))") }
    }

    /// It is gone afterwards.
    func remove(frozen name: String) throws {
        guard freezesCopies else { return }
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

    private func folder(namedBy path: String) throws -> String {
        guard let name = try? String(contentsOfFile: path, encoding: .utf8), !name.isEmpty, isHexadecimal(name)
        else {
            throw CaptureTrouble("cannot read \(path), which names a folder of the engine's")
        }
        return driver == .btrfs ? "\(root)/btrfs/subvolumes/\(name)" : "\(root)/overlay2/\(name)/diff"
    }
}

/// A container's files that nobody changes, and what they are compared with.
enum FrozenFiles: Sendable {
    /// A tree of all of them, and one of all that is below the layer; nil for nothing.
    case whole(String, over: String?)
    /// Folders as overlayfs lays them upon each other, the uppermost first: those whose files are to be in the layer, and those
    /// below it.
    case differences([String], over: [String])
}

/// The files of a sandbox cannot be captured, however often it is tried.
struct CaptureRefused: Error, Hashable, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A capture failed for a reason that may pass.
struct CaptureTrouble: Error, Hashable, CustomStringConvertible {
    enum Prospect: Hashable {
        case passing
        /// It has passed after a few tries, or will not.
        case doubtful
        /// It ends when somebody does something about it.
        case lasting
    }

    let description: String
    let prospect: Prospect
    init(_ description: String, _ prospect: Prospect = .passing) {
        self.description = description
        self.prospect = prospect
    }
}

func words(_ number: CInt) -> String { String(cString: strerror(number)) }
