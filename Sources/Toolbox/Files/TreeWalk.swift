import Glibc
import HTTPTypes

/// Limits of everything that goes through a tree of files.
package enum WalkLimit {
    /// Entries looked at by one call.
    package static let entries = 1_000_000
    /// Directories inside each other; each keeps a descriptor open.
    package static let depth = 200
    /// Time of one search.
    package static let duration = Duration.seconds(60)
}

/// Goes through a tree of files, depth first, never through links. Blocks.
package struct TreeWalk {
    /// A file or directory that was met.
    package struct Entry {
        package var name: RawName
        package var path: String
        package var status: FileStatus
        /// Descriptor of the directory that it is in.
        package var directory: CInt
    }

    private let deadline = ContinuousClock.now + WalkLimit.duration
    private var seen = 0

    package init() {}

    /// Visits everything below a directory, `depth` levels deep. Directories that may not be read are passed over, unless it
    /// is the first; so is what vanishes meanwhile.
    /// - Throws: the file error for the first directory; 408 or 400 when a limit is reached; what `visit` throws.
    package mutating func visit(_ path: String, depth: Int = WalkLimit.depth, _ visit: (Entry) throws -> Void) throws {
        let root = try DirectoryStream(path, followLinks: true, to: "list")
        try descend(root, path: path == "/" ? "" : path, depth: depth, visit)
    }

    private mutating func descend(
        _ directory: DirectoryStream,
        path: String,
        depth: Int,
        _ visit: (Entry) throws -> Void
    ) throws {
        while let name = directory.next() {
            try checkLimits()
            let below = directory.descriptor
            guard let status = status(of: name, below: below) else { continue }
            let entry = Entry(name: name, path: "\(path)/\(name.text)", status: status, directory: below)
            try visit(entry)
            guard status.kind == .directory, depth > 1 else { continue }
            guard let inner = try? DirectoryStream(name.bytes, below: below, followLinks: false, to: "list") else {
                continue
            }
            try descend(inner, path: entry.path, depth: depth - 1, visit)
        }
    }

    private func status(of name: RawName, below directory: CInt) -> FileStatus? {
        name.bytes.withUnsafeBufferPointer { FileStatus.of(entry: $0, below: directory) }
    }

    private mutating func checkLimits() throws {
        seen += 1
        guard seen <= WalkLimit.entries else {
            throw ToolboxError.badRequest(
                "more than \(WalkLimit.entries) entries, the limit; name a directory further down"
            )
        }
        guard seen % 64 != 0 || ContinuousClock.now < deadline else {
            throw ToolboxError(
                .requestTimeout,
                "REQUEST_TIMEOUT",
                "not finished after \(WalkLimit.duration), the limit; name a directory further down"
            )
        }
    }
}
