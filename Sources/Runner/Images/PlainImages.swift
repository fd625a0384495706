import Docker
import Domain
import FoundationEssentials
import NIOPosix
import Store

/// Twins of images that declare volumes (`VOLUME` in a Dockerfile): the same layers and the same configuration, but without them.
///
/// For each path that an image declares, the engine would keep the files of a container in a volume: beside the sandbox's disk and
/// its quota, and in no capture of it; it cannot be told not to. See `ops/decisions/016`.
struct PlainImages: Sendable {
    private let engine: DockerEngine
    private let driver: String
    private let dataRoot: String
    /// What twins are called begins with this.
    private let host: String

    init(_ parts: RunnerParts) {
        engine = parts.engine
        driver = parts.blueprint.host.engine.storageDriver
        dataRoot = parts.blueprint.host.dataRoot
        host = parts.registry?.host ?? InternalImage.host
    }

    /// The image's twin, which is on this engine afterwards; nil where none can be made.
    ///
    /// Throws ``RunnerError`` where the image is not as the engine makes them.
    func twin(of image: ImageInspection) async throws -> ImageInspection? {
        let (host, driver, dataRoot) = (host, driver, dataRoot)
        let archive = try await NIOThreadPool.singleton.runIfActive {
            try ImageConfigurations(driver: driver, dataRoot: dataRoot).map { all in
                try Self.archive(ofTwinOf: image, all, at: host)
            }
        }
        guard let archive else { return nil }
        let twin = try await ensure(archive)
        guard twin.volumes.isEmpty else {
            throw RunnerError(
                .noImage,
                "the image declares VOLUME \(twin.volumes.joined(separator: ", ")) in a way that cannot be left out; make it anew"
            )
        }
        return twin
    }

    private static func archive(ofTwinOf image: ImageInspection, _ all: ImageConfigurations, at host: String) throws
        -> ImageArchive
    {
        do {
            let configuration = try all.read(image.id)
            return try ImageArchive(
                withoutVolumes(configuration),
                named: name(ofTwinOf: image.id, at: host),
                layersBelow: CapturedImage(of: configuration).layers.count
            )
        } catch {
            throw RunnerError(
                .misconfigured,
                "the configuration of the image \(image.id), which declares VOLUME, cannot be read on this host: \(error)"
            )
        }
    }

    /// Its id says what it is, so that one that is here needs no second look.
    private func ensure(_ archive: ImageArchive) async throws -> ImageInspection {
        do {
            return try await engine.inspectImage(archive.image)
        } catch let error as DockerError where error.kind == .notFound {
            try await engine.loadImages(archive, bytes: archive.bytes, within: engine.limits.lifecycle)
            return try await engine.inspectImage(archive.image)
        }
    }
}

// Pure parts.
extension PlainImages {
    /// A configuration that says all that this one does but its volumes. Numbers that no 64 bits hold are rounded.
    static func withoutVolumes(_ configuration: Data) throws -> Data {
        let document = try JSONDecoder().decode(JSONValue.self, from: configuration)
        return try document.changing("config") { $0.changing("Volumes") { _ in nil } }.encoded()
    }

    private static func repository(at host: String) -> String { "\(host)/plain" }

    /// Says whose twin it is, for the cache.
    static func name(ofTwinOf image: String, at host: String) -> String {
        "\(repository(at: host)):\(image.split(separator: ":").last ?? "")"
    }

    /// The id of the image that the image of this name is the twin of; nil for other names.
    static func original(ofTwin name: String, at host: String) -> String? {
        let prefix = "\(repository(at: host)):"
        return name.hasPrefix(prefix) ? "sha256:\(name.dropFirst(prefix.count))" : nil
    }
}

extension JSONValue {
    /// Each member of an object that the engine takes for `name`: it reads `volumes` as it reads `Volumes`. Nil takes it away.
    fileprivate func changing(_ name: String, _ change: (JSONValue) -> JSONValue?) -> JSONValue {
        guard case .object(let members) = self else { return self }
        let wanted = name.uppercased()
        return .object(
            members.reduce(into: [:]) { kept, member in
                kept[member.key] = member.key.uppercased() == wanted ? change(member.value) : member.value
            }
        )
    }
}
