import Glibc

/// Longest path that is taken from a request, in bytes.
package let pathLimitBytes = 4096

/// Where relative paths of requests begin.
package struct WorkingDirectory: Sendable {
    package let path: String

    package init(_ path: String) {
        self.path = path
    }

    /// The image's WORKDIR, where the daemon was started; for an image that has none the home, if it is a directory.
    package static func atStart(home: String) -> WorkingDirectory {
        let buffer = getcwd(nil, 0)
        defer { free(buffer) }
        let current = buffer.map { String(cString: $0) } ?? "/"
        let homeExists = (try? FileStatus.of(home))?.kind == .directory
        return WorkingDirectory(current == "/" && homeExists ? home : current)
    }

    /// An absolute path for one from a request. It is not normalised: the kernel follows `..` and links as for a shell.
    /// - Throws: 400 for an empty path, one with NUL, or one that is too long.
    package func resolve(_ given: String) throws -> String {
        guard !given.isEmpty else { throw ToolboxError.invalidPath("the path is empty") }
        guard !given.utf8.contains(0) else { throw ToolboxError.invalidPath("the path holds a NUL") }
        guard given.utf8.count < pathLimitBytes else {
            throw ToolboxError.invalidPath(
                "the path is \(given.utf8.count) bytes long, the limit is \(pathLimitBytes - 1)"
            )
        }
        return given.hasPrefix("/") ? given : "\(path)/\(given)"
    }
}
