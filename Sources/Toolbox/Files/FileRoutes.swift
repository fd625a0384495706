import CLinux
import Glibc
import HTTPTypes
import Hummingbird
import NIOCore

/// Most entries that one listing answers.
package let listLimit = 50_000

/// The calls about files that move no content (WIRE-CONTRACT 5.7).
package struct FileRoutes: Sendable {
    let workingDirectory: WorkingDirectory

    /// `GET /files?path=&depth=`
    func list(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"].flatMap { $0.isEmpty ? nil : $0 } ?? ".")
        let depth = try call.query.number("depth", in: 1...WalkLimit.depth) ?? 1
        return try jsonResponse(try await onTreeThread { try listTree(normalize(path), depth: depth) })
    }

    /// `GET /files/info?path=`: of what a link points to.
    func info(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"] ?? "")
        return try jsonResponse(
            try await onBlockingThread {
                guard let status = try FileStatus.of(path) else { throw ToolboxError.file(ENOENT, "read", path) }
                return FileDescription(path: normalize(path), status: status, accounts: .load())
            }
        )
    }

    /// `POST /files/folder?path=&mode=`: with the directories above; one that exists is fine.
    func makeFolder(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"] ?? "")
        let mode = try parseMode(call.query["mode"] ?? "") ?? 0o755
        try await onBlockingThread { try makeFolderWithMode(path, mode) }
        return emptyResponse(.created)
    }

    /// `DELETE /files?path=&recursive=`: a link itself, never what it points to.
    func delete(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"] ?? "")
        let recursive = try call.query.flag("recursive")
        try await onTreeThread { try removeFile(path, recursive: recursive) }
        return emptyResponse(.noContent)
    }

    /// `POST /files/move?source=&destination=`
    func move(_ call: ToolboxCall) async throws -> Response {
        let source = try workingDirectory.resolve(call.query["source"] ?? "")
        let destination = try workingDirectory.resolve(call.query["destination"] ?? "")
        try await onBlockingThread { try moveFile(source, to: destination) }
        return emptyResponse(.ok)
    }

    /// `POST /files/permissions?path=&owner=&group=&mode=`: what is given is changed, all of it checked before.
    func setPermissions(_ call: ToolboxCall) async throws -> Response {
        let path = try workingDirectory.resolve(call.query["path"] ?? "")
        let mode = try parseMode(call.query["mode"] ?? "")
        let (owner, group) = (call.query["owner"] ?? "", call.query["group"] ?? "")
        try await onBlockingThread { try changePermissions(path, mode: mode, owner: owner, group: group) }
        return emptyResponse(.ok)
    }

    private func parseMode(_ text: String) throws -> mode_t? {
        if text.isEmpty { return nil }
        guard text.count <= 5, let mode = mode_t(text, radix: 8), mode <= 0o7777 else {
            throw ToolboxError.badRequest("query parameter 'mode' is '\(text)', not an octal mode like 755")
        }
        return mode
    }
}

/// A path without doubled slashes, `.` and, where nothing can be a link in between, `..`: for showing, not for opening.
private func normalize(_ path: String) -> String {
    let parts = path.split(separator: "/").filter { $0 != "." }
    return "/" + parts.joined(separator: "/")
}

private func listTree(_ path: String, depth: Int) throws -> [FileDescription] {
    if let status = try FileStatus.of(path), status.kind != .directory {
        throw ToolboxError.invalidPath("cannot list \(path): it is a \(status.kind.name), not a directory")
    }
    let accounts = Accounts.load()
    var entries: [FileDescription] = []
    var walk = TreeWalk()
    try walk.visit(path, depth: depth) { entry in
        guard entries.count < listLimit else {
            throw ToolboxError.badRequest(
                "\(path) holds more than \(listLimit) entries, the limit of a listing; use a smaller depth or a directory further down"
            )
        }
        entries.append(FileDescription(path: entry.path, status: entry.status, accounts: accounts))
    }
    return entries.sorted { $0.path < $1.path }
}

private func makeFolderWithMode(_ path: String, _ mode: mode_t) throws {
    let existed = try FileStatus.of(path) != nil
    try makeDirectories(path)
    // A mode that was asked for is not subject to the umask.
    guard existed || chmod(path, mode) == 0 else { throw ToolboxError.file(errno, "set the mode of", path) }
}

private func removeFile(_ path: String, recursive: Bool) throws {
    guard let status = try FileStatus.of(path, followLinks: false, to: "delete") else {
        throw ToolboxError.file(ENOENT, "delete", path)
    }
    guard status.kind == .directory else {
        guard unlink(path) == 0 else { throw ToolboxError.file(errno, "delete", path) }
        return
    }
    guard recursive else {
        throw ToolboxError.invalidPath("cannot delete \(path): it is a directory; pass recursive=true")
    }
    try removeContents(of: DirectoryStream(path, followLinks: false, to: "delete"), path, depth: WalkLimit.depth)
    guard rmdir(path) == 0 || errno == ENOENT else { throw ToolboxError.file(errno, "delete", path) }
}

func removeContents(of directory: DirectoryStream, _ path: String, depth: Int) throws {
    guard depth > 0 else {
        throw ToolboxError.badRequest(
            "\(path) is more than \(WalkLimit.depth) directories deep, the limit; delete it with a command"
        )
    }
    for name in directory.names() {
        if unlinkat(directory.descriptor, name.bytes, 0) == 0 || errno == ENOENT { continue }
        let failure = errno
        guard failure == EISDIR || failure == EPERM else {
            throw ToolboxError.file(failure, "delete", "\(path)/\(name.text)")
        }
        let inner = try DirectoryStream(name.bytes, below: directory.descriptor, followLinks: false, to: "delete")
        try removeContents(of: inner, "\(path)/\(name.text)", depth: depth - 1)
        guard unlinkat(directory.descriptor, name.bytes, AT_REMOVEDIR) == 0 || errno == ENOENT else {
            throw ToolboxError.file(errno, "delete", "\(path)/\(name.text)")
        }
    }
}

private func moveFile(_ source: String, to destination: String) throws {
    var failure = -martlet_rename_exclusive(source, destination)
    if failure == EINVAL || failure == ENOSYS {
        // A file system that cannot look and rename at once.
        if try FileStatus.of(destination, followLinks: false, to: "move") != nil {
            throw ToolboxError.file(EEXIST, "move to", destination)
        }
        failure = rename(source, destination) == 0 ? 0 : errno
    }
    switch failure {
    case 0: return
    case EEXIST: throw ToolboxError.file(EEXIST, "move to", destination)
    case EXDEV: try moveAcrossFileSystems(source, to: destination)
    case ENOENT where try FileStatus.of(source, followLinks: false, to: "move") != nil:
        throw ToolboxError.file(ENOENT, "move to", parentPath(destination))
    default: throw ToolboxError.file(failure, "move", source)
    }
}

/// Copies a regular file and removes the first. A directory is left to `mv`, which also keeps what we do not know of.
private func moveAcrossFileSystems(_ source: String, to destination: String) throws {
    let file = try OpenFile.open(source, O_RDONLY | O_NOFOLLOW, to: "move")
    guard let status = FileStatus.of(file), status.kind == .regular else {
        throw ToolboxError.invalidPath(
            "cannot move \(source) to another file system: only regular files can be; use the command mv"
        )
    }
    let copy = try FileReplacement(of: destination, makesParents: false)
    var offset: Int64 = 0
    while true {
        let piece = try file.read(256 << 10, at: offset)
        if piece.readableBytes == 0 { break }
        try copy.write(piece)
        offset += Int64(piece.readableBytes)
    }
    try copy.commit()
    _ = chown(destination, status.user, status.group)
    _ = chmod(destination, status.permissions)
    guard unlink(source) == 0 else { throw ToolboxError.file(errno, "delete", source) }
}

private func changePermissions(_ path: String, mode: mode_t?, owner: String, group: String) throws {
    let accounts = Accounts.load()
    let user = try accountNumber(owner, "owner", accounts.userID)
    let groupNumber = try accountNumber(group, "group", accounts.groupID)
    guard try FileStatus.of(path) != nil else { throw ToolboxError.file(ENOENT, "change", path) }
    if user != .max || groupNumber != .max, chown(path, user, groupNumber) != 0 {
        throw ToolboxError.file(errno, "change the owner of", path)
    }
    // After the owner, because changing that clears the set-id bits.
    if let mode, chmod(path, mode) != 0 { throw ToolboxError.file(errno, "change the mode of", path) }
}

/// The number for a name or number; the largest, which chown(2) takes for "leave it", if nothing is given.
private func accountNumber(_ name: String, _ what: String, _ find: (String) -> UInt32?) throws -> UInt32 {
    if name.isEmpty { return .max }
    guard let number = find(name), number != .max else {
        throw ToolboxError.badRequest("query parameter '\(what)' is '\(name)', neither a known name nor a number")
    }
    return number
}
