import Glibc

/// What tells one content of a file from another.
package struct FileStamp: Sendable, Equatable {
    package var size: Int
    package var modifiedSeconds: Int64
    package var modifiedNanoseconds: Int64
    package var inode: UInt64

    package init(_ status: FileStatus) {
        size = status.size
        modifiedSeconds = status.modifiedSeconds
        modifiedNanoseconds = status.modifiedNanoseconds
        inode = status.inode
    }
}

/// The source files of a project, as they were when somebody looked. Servers leave it to their clients to watch them, and
/// nothing watches here: it is looked when something is asked.
package struct ProjectFiles: Sendable {
    package var stamps: [String: FileStamp] = [:]
    /// `tsconfig.json` and the like.
    package var configurations: Set<String> = []

    /// Folders that hold what was installed or made rather than written.
    private static let passedOver: Set<String> = [
        "node_modules", "__pycache__", "venv", "site-packages", "dist-packages",
    ]
    private static let configurationNames: Set<String> = ["tsconfig.json", "jsconfig.json"]

    package init() {}

    /// Looks through a project's folders, breadth first, within `LanguageServerLimit`. What may not be read is passed over.
    /// Blocks.
    package static func scan(_ project: ServerProject) -> ProjectFiles {
        var files = ProjectFiles()
        var folders = [project.path]
        var (next, seen) = (0, 0)
        while next < folders.count {
            let folder = folders[next]
            next += 1
            guard let stream = try? DirectoryStream(folder, followLinks: next == 1, to: "list") else { continue }
            while let name = stream.next() {
                seen += 1
                guard seen <= LanguageServerLimit.projectEntries else { return files }
                files.take(name, in: stream, path: folder == "/" ? "" : folder, project.language, &folders)
            }
        }
        return files
    }

    private mutating func take(
        _ name: RawName,
        in stream: DirectoryStream,
        path: String,
        _ language: LanguageID,
        _ folders: inout [String]
    ) {
        let text = name.text
        let status = name.bytes.withUnsafeBufferPointer { FileStatus.of(entry: $0, below: stream.descriptor) }
        guard let status, !text.hasPrefix(".") else { return }
        switch status.kind {
        case .directory:
            if !Self.passedOver.contains(text) { folders.append("\(path)/\(text)") }
        case .regular:
            if Self.configurationNames.contains(text) { configurations.insert("\(path)/\(text)") }
            guard let dot = text.lastIndex(of: "."), stamps.count < LanguageServerLimit.projectFiles,
                language.extensions.contains(String(text[text.index(after: dot)...]))
            else { return }
            stamps["\(path)/\(text)"] = FileStamp(status)
        case .link, .fifo, .socket, .device: break
        }
    }
}

/// What happened to a project's files between two looks.
package struct ProjectChanges: Sendable, Equatable {
    package var created: [String] = []
    package var changed: [String] = []
    package var deleted: [String] = []

    package var isEmpty: Bool { created.isEmpty && changed.isEmpty && deleted.isEmpty }

    package init(from old: ProjectFiles, to new: ProjectFiles) {
        for (path, stamp) in new.stamps {
            switch old.stamps[path] {
            case nil: created.append(path)
            case .some(let before) where before != stamp: changed.append(path)
            case .some: break
            }
        }
        deleted = old.stamps.keys.filter { new.stamps[$0] == nil }
        (created, changed, deleted) = (created.sorted(), changed.sorted(), deleted.sorted())
    }
}
