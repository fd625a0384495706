import Glibc
package import NIOCore
import Synchronization

/// New content for a file, written beside it and put in its place at once: readers see the old or the new, never a part.
///
/// A link is followed, as a shell's `>` does: its target is replaced. Mode and owner of a replaced file are kept. Where a
/// file cannot be replaced (a mount point like /etc/hosts, or a directory that is not writable) it is overwritten in place.
/// All functions block.
package final class FileReplacement: Sendable {
    private static let linkLimit = 40

    private let destination: String
    private let file: OpenFile
    /// Nil if the destination itself is written.
    private let temporary: String?
    private let finished = Mutex(false)

    /// - Parameter makesParents: creates missing directories above.
    /// - Throws: the file error, 400 for what is not a regular file.
    package init(of path: String, makesParents: Bool) throws {
        destination = try Self.followLinks(path)
        let parent = parentPath(destination)
        if makesParents { try makeDirectories(parent) }
        let existing = try Self.regularFile(at: destination)
        let name = "\(parent)/.martlet-\(UInt64.random(in: .min ... .max).description)"
        let descriptor = Glibc.open(
            name,
            O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
            existing == nil ? 0o666 : 0o600
        )
        if descriptor >= 0 {
            file = OpenFile(owning: descriptor)
            temporary = name
            if let existing { Self.keepOwnership(of: existing, on: descriptor) }
            return
        }
        guard errno == EACCES || errno == EPERM || errno == EROFS, existing != nil else {
            throw ToolboxError.file(errno, "write", path)
        }
        file = try OpenFile.open(destination, O_WRONLY | O_TRUNC, to: "write")
        temporary = nil
    }

    deinit {
        if let temporary, !finished.withLock({ $0 }) { unlink(temporary) }
    }

    /// Appends to the new content.
    package func write(_ bytes: ByteBuffer) throws {
        do {
            try file.write(bytes.readableBytesView)
        } catch let error as IOError {
            throw ToolboxError.file(error.errnoCode, "write", destination)
        }
    }

    /// Puts the new content in place.
    package func commit() throws {
        guard let temporary else { return }
        if rename(temporary, destination) == 0 {
            finished.withLock { $0 = true }
            return
        }
        guard errno == EBUSY else { throw ToolboxError.file(errno, "write", destination) }
        try overwriteInPlace()
    }

    private func overwriteInPlace() throws {
        let target = try OpenFile.open(destination, O_WRONLY | O_TRUNC, to: "write")
        var offset: Int64 = 0
        while true {
            let piece = try file.read(256 << 10, at: offset)
            guard piece.readableBytes > 0 else { return }
            try target.write(piece.readableBytesView)
            offset += Int64(piece.readableBytes)
        }
    }

    private static func followLinks(_ path: String) throws -> String {
        var path = path
        for _ in 0..<linkLimit {
            guard let target = readLink(path) else { return path }
            path = target.hasPrefix("/") ? target : "\(parentPath(path))/\(target)"
        }
        throw ToolboxError.file(ELOOP, "write", path)
    }

    private static func regularFile(at path: String) throws -> FileStatus? {
        guard let status = try FileStatus.of(path, to: "write") else { return nil }
        guard status.kind == .regular else {
            throw ToolboxError.invalidPath("cannot write \(path): it is a \(status.kind.name), not a regular file")
        }
        return status
    }

    /// Changing the owner first: it clears the set-id bits. Failing is usual for anyone but root, then the writer owns it.
    private static func keepOwnership(of existing: FileStatus, on descriptor: CInt) {
        _ = fchown(descriptor, existing.user, existing.group)
        _ = fchmod(descriptor, existing.permissions)
    }
}

/// Makes a directory and those above it, like `mkdir -p`. Blocks.
/// - Throws: the file error for the first that is missing and cannot be made.
package func makeDirectories(_ path: String, mode: UInt32 = 0o777) throws {
    if mkdir(path, mode) == 0 { return }
    let failure = errno
    if let status = try FileStatus.of(path, to: "create directory") {
        if status.kind == .directory { return }
        throw ToolboxError.invalidPath("cannot create directory \(path): it is a \(status.kind.name)")
    }
    guard failure == ENOENT, parentPath(path) != path else {
        throw ToolboxError.file(failure, "create directory", path)
    }
    try makeDirectories(parentPath(path))
    guard mkdir(path, mode) == 0 || errno == EEXIST else { throw ToolboxError.file(errno, "create directory", path) }
}

/// The path without its last component and slashes before it; "/" for what is directly under it.
package func parentPath(_ path: String) -> String {
    var rest = path[...]
    while rest.count > 1 && rest.last == "/" { rest.removeLast() }
    guard let slash = rest.lastIndex(of: "/") else { return "." }
    while rest.count > 1 && rest.endIndex > rest.index(after: slash) { rest.removeLast() }
    while rest.count > 1 && rest.last == "/" { rest.removeLast() }
    return String(rest)
}

/// The last component of a path.
package func baseName(_ path: String) -> String {
    String(path.split(separator: "/").last ?? "/")
}

/// What a link says, or nil.
package func readLink(_ path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let length = buffer.withUnsafeMutableBytes { readlink(path, $0.baseAddress!, $0.count) }
    return length < 0 ? nil : String(decoding: buffer[..<length], as: UTF8.self)
}
