import Docker
import FoundationEssentials
import NIOCore

/// The paths for which a sandbox's image declares volumes, and which are folders of its own files instead: those that the image does
/// not have are made before the first start, as the engine would have made them for its volumes.
struct ImageFolders: Sendable, Hashable {
    /// Each is asked for by itself, and so is each folder on the way to it.
    static let countLimit = 64
    static let depthLimit = 16
    static let bytesLimit = 1024
    /// Of all: the label of a container comes with each look at all containers.
    static let allBytesLimit = 4096
    private static let linksLimit = 8

    /// From the root, without `.` and `..`.
    let paths: [[String]]

    /// Throws ``RunnerError`` for more than a sandbox takes.
    init(_ declared: [String]) throws {
        guard declared.count <= Self.countLimit else {
            throw RunnerError(
                .noImage,
                "the image declares \(declared.count) volumes (VOLUME); \(Self.countLimit) is the limit: declare fewer"
            )
        }
        let bytes = declared.reduce(0) { $0 + $1.utf8.count }
        guard bytes <= Self.allBytesLimit else {
            throw RunnerError(
                .noImage,
                "the volumes (VOLUME) that the image declares have paths of \(bytes) bytes; \(Self.allBytesLimit) is the limit: declare fewer"
            )
        }
        paths = try declared.map { path in
            let parts = Self.parts(of: path)
            guard parts.count <= Self.depthLimit, path.utf8.count <= Self.bytesLimit,
                path.utf8.allSatisfy({ $0 >= 32 && $0 != 127 })
            else {
                throw RunnerError(
                    .noImage,
                    "the image declares a volume (VOLUME) at '\(path.prefix(80))'; a path may have \(Self.depthLimit) folders and \(Self.bytesLimit) bytes, none of them a control character: choose another one"
                )
            }
            return parts
        }
    }

    private static func parts(of path: String) -> [String] {
        path.split(separator: "/").reduce(into: []) { parts, part in
            switch part {
            case ".": break
            case "..": _ = parts.popLast()
            default: parts.append(String(part))
            }
        }
    }

    // MARK: - Label

    /// What a container remembers of them until it is started.
    var label: String? {
        guard !paths.isEmpty, let text = try? JSONEncoder().encode(paths) else { return nil }
        return String(decoding: text, as: UTF8.self)
    }

    init(label: String?) {
        paths = label.flatMap { try? JSONDecoder().decode([[String]].self, from: Data($0.utf8)) } ?? []
    }

    // MARK: - Making

    /// They are in the container afterwards, which does not run: nobody moves a link meanwhile.
    ///
    /// - Parameter mounts: where something else is mounted, which has all that is below it.
    func make(in container: String, except mounts: [String], _ engine: DockerEngine) async throws {
        let mounts = mounts.map(Self.parts)
        for path in paths { try await Self.make(path, in: container, except: mounts, engine) }
    }

    private static func make(_ path: [String], in container: String, except mounts: [[String]], _ engine: DockerEngine)
        async throws
    {
        var path = path
        for _ in 0..<linksLimit {
            if mounts.contains(where: path.starts) { return }
            let (there, link) = try await existing(of: path, in: container, engine)
            if let link {
                path = parts(of: link) + path[there...]
            } else if there < path.count {
                return try await engine.unpack(tar(of: path[there...]), into: text(path[..<there]), of: container)
            } else {
                return
            }
        }
        throw RunnerError(
            .noImage,
            "the image declares a volume (VOLUME) at \(text(path[...])), and there are more than \(linksLimit) links on the way to it: choose another path"
        )
    }

    /// How many of the path's parts are there, and where the last of them leads if it is a link.
    private static func existing(of path: [String], in container: String, _ engine: DockerEngine) async throws
        -> (count: Int, link: String?)
    {
        for count in stride(from: path.count, to: 0, by: -1) {
            guard let found = try await engine.inspectPath(text(path[..<count]), of: container) else { continue }
            return (count, found.linkTarget)
        }
        return (0, nil)
    }

    private static func text(_ parts: ArraySlice<String>) -> String { "/" + parts.joined(separator: "/") }

    private static func tar(of missing: ArraySlice<String>) -> ByteBuffer {
        var tar = ByteBuffer()
        for end in missing.indices {
            let path = missing[...end].joined(separator: "/") + "/"
            tar.writeBytes(LayerEntry(path: Array(path.utf8), kind: .directory, mode: 0o755).header)
        }
        tar.writeBytes(LayerEntry.end)
        return tar
    }
}
