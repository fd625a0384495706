import Crypto
import Docker
import Domain
import FoundationEssentials
import NIOCore
import NIOPosix

/// The image of a sandbox: all that its own image says of how to run it, that image's layers, and one of its own upon them.
struct CapturedImage: Sendable {
    /// How many of the layers are not the sandbox's own; on backups only, so that backups of what was restored from one do not
    /// grow upon each other.
    static let baseLabel = "martlet.captured-on"
    /// Images have at most 125 layers; a base with more than these is taken apart further down.
    static let baseLayersLimit = 100

    /// All layers of the sandbox's image, the lowest first.
    let layers: [String]
    /// Those of them that the own one lies upon. What is in the others is in the own one anew.
    let base: [String]
    private var document: JSONValue

    /// Begins with the configuration of the image that the sandbox was made of, byte for byte as it is.
    init(of configuration: Data) throws {
        document = try JSONDecoder().decode(JSONValue.self, from: configuration)
        layers = document["rootfs"]["diff_ids"].strings
        let labelled = Int(document["config"]["Labels"][Self.baseLabel].string ?? "") ?? layers.count
        base = Array(layers.prefix(min(max(labelled, 0), Self.baseLayersLimit)))
    }

    /// The new configuration.
    func configuration(adding layer: String, isBackup: Bool) throws -> Data {
        var its = document
        // What tells of the making of the old one, and names more layers than there are now.
        for member in ["container", "container_config", "history", "id", "parent"] { its.remove(member) }
        its["rootfs"] = .object(["type": .string("layers"), "diff_ids": .array((base + [layer]).map { .string($0) })])
        var process = its["config"]
        var labels = process["Labels"]
        labels.remove(Self.baseLabel)
        if isBackup { labels[Self.baseLabel] = .string("\(base.count)") }
        process["Labels"] = labels
        its["config"] = process
        return try its.encoded()
    }
}

extension JSONValue {
    fileprivate var string: String? { if case .string(let value) = self { value } else { nil } }

    fileprivate var strings: [String] { if case .array(let values) = self { values.compactMap(\.string) } else { [] } }

    /// Null where there is none; setting one makes an object of what is none.
    fileprivate subscript(member: String) -> JSONValue {
        get { if case .object(let members) = self { members[member] ?? .null } else { .null } }
        set {
            var members: [String: JSONValue] = if case .object(let members) = self { members } else { [:] }
            members[member] = newValue
            self = .object(members)
        }
    }

    fileprivate mutating func remove(_ member: String) {
        guard case .object(var members) = self else { return }
        members[member] = nil
        self = .object(members)
    }
}

/// An archive for the engine to load: one image, of whose layers only the uppermost is in it, or none. It is read as it is sent.
struct ImageArchive: AsyncSequence, Sendable {
    /// The image's id, `sha256:…`.
    let image: String
    /// Of the whole archive.
    let bytes: Int64
    private let layer: FileChunks?
    private let before: [UInt8]
    private let after: [UInt8]

    /// - Parameters:
    ///   - name: the image is called so afterwards.
    ///   - below: how many layers the engine has already.
    ///   - layer: one that it does not have.
    init(_ configuration: Data, named name: String, layersBelow below: Int, _ layer: FileChunks? = nil) throws {
        struct Manifest: Encodable {
            let configuration: String
            let tags: [String]
            let layers: [String]
            enum CodingKeys: String, CodingKey {
                case configuration = "Config"
                case tags = "RepoTags"
                case layers = "Layers"
            }
        }
        let digest = SHA256.hash(data: configuration).hexadecimal
        image = "sha256:\(digest)"
        // Those that the engine has already are only named.
        let names = (0..<below).map { "\($0).tar" } + (layer == nil ? [] : ["layer.tar"])
        let manifest = try JSONEncoder().encode([Manifest(configuration: "\(digest).json", tags: [name], layers: names)]
        )
        before = layer.map { Self.header("layer.tar", $0.bytes) } ?? []
        after =
            LayerEntry.padding(after: layer?.bytes ?? 0) + Self.entry("\(digest).json", configuration)
            + Self.entry("manifest.json", manifest) + LayerEntry.end
        bytes = Int64(before.count) + (layer?.bytes ?? 0) + Int64(after.count)
        self.layer = layer
    }

    private static func header(_ name: String, _ bytes: Int64) -> [UInt8] {
        var entry = LayerEntry(path: Array(name.utf8), kind: .file, mode: 0o644)
        entry.bytes = bytes
        return entry.header
    }

    private static func entry(_ name: String, _ content: Data) -> [UInt8] {
        let bytes = Int64(content.count)
        return header(name, bytes) + Array(content) + LayerEntry.padding(after: bytes)
    }

    func makeAsyncIterator() -> Iterator { Iterator(archive: self) }

    struct Iterator: AsyncIteratorProtocol {
        private let archive: ImageArchive
        private var layer: FileChunks.Iterator?
        private var hasBegun = false
        private var hasEnded = false

        fileprivate init(archive: ImageArchive) {
            self.archive = archive
            layer = archive.layer?.makeAsyncIterator()
        }

        mutating func next() async throws -> ByteBuffer? {
            guard hasBegun else {
                hasBegun = true
                return ByteBuffer(bytes: archive.before)
            }
            if let chunk = try await layer?.next() { return chunk }
            guard !hasEnded else { return nil }
            hasEnded = true
            layer = nil
            return ByteBuffer(bytes: archive.after)
        }
    }
}

/// The first bytes of a file of the host's, read as they are sent.
struct FileChunks: AsyncSequence, Sendable {
    private static let chunkBytes: Int64 = 1 << 20

    let file: String
    /// The file has so many, or more.
    let bytes: Int64
    let threads: NIOThreadPool

    func makeAsyncIterator() -> Iterator { Iterator(chunks: self) }

    struct Iterator: AsyncIteratorProtocol {
        private let chunks: FileChunks
        private var content: OpenedFile?
        private var left: Int64

        fileprivate init(chunks: FileChunks) {
            self.chunks = chunks
            left = chunks.bytes
        }

        mutating func next() async throws -> ByteBuffer? {
            guard left > 0 else {
                content = nil
                return nil
            }
            let (path, limit, known) = (chunks.file, Int(Swift.min(left, FileChunks.chunkBytes)), content)
            let (file, chunk) = try await chunks.threads.runIfActive {
                let file = try known ?? OpenedFile(path)
                return (file, try file.read(atMost: limit))
            }
            content = file
            left -= Int64(chunk.count)
            return ByteBuffer(bytes: chunk)
        }
    }
}
