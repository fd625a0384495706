import FoundationEssentials

/// The configurations of an engine's images as they were made, which it has no call for. Its drivers all keep them so (see also
/// ``LayerStore``); its image store of containerd's does not. Reading blocks.
struct ImageConfigurations: Sendable {
    /// An engine takes larger ones from no registry.
    private static let bytesLimit = 8 << 20

    private let folder: String

    /// Nil where the engine keeps them in another way.
    init?(driver: String, dataRoot: String) {
        folder = "\(dataRoot)/image/\(driver)/imagedb/content/sha256"
        guard !driver.contains("/"), FileManager.default.fileExists(atPath: folder) else { return nil }
    }

    /// Byte for byte.
    func read(_ image: String) throws -> Data {
        let digest = image.hasPrefix("sha256:") ? String(image.dropFirst(7)) : image
        guard isDigest(digest) else { throw CaptureTrouble("the engine's image id '\(image)' is no digest") }
        let path = "\(folder)/\(digest)"
        do {
            let bytes = try OpenedFile(path).size()
            guard bytes <= Self.bytesLimit else {
                throw CaptureTrouble("\(path) has \(bytes) bytes; the limit is \(Self.bytesLimit)")
            }
            return try Data(contentsOf: URL(filePath: path))
        } catch let error as CaptureTrouble {
            throw error
        } catch {
            throw CaptureTrouble("cannot read \(path): \(error)")
        }
    }
}

/// Of SHA-256, in hexadecimal.
func isDigest(_ text: some StringProtocol) -> Bool { text.utf8.count == 64 && isHexadecimal(text) }

/// Lower-case digits, or nothing.
func isHexadecimal(_ text: some StringProtocol) -> Bool {
    text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
}
