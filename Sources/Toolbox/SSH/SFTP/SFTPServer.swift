import CLinux
import Glibc

/// File transfer, version 3 as OpenSSH's client speaks it, with its extensions. Packets in, packets out; it blocks for the
/// disk only. Paths are bytes, as file systems have them.
final class SFTPServer {
    private enum Handle {
        case file(OpenFile, appends: Bool)
        case directory(DirectoryStream, path: [UInt8])
    }

    private let directory: [UInt8]
    private let home: [UInt8]
    private var handles: [UInt32: Handle] = [:]
    private var lastHandle: UInt32 = 0
    private var isInitialized = false
    private lazy var accounts = Accounts.load()
    /// What is to be sent.
    var answers = SFTPWriter()

    /// - Parameters:
    ///   - directory: where relative paths begin.
    ///   - home: what `~` is.
    init(directory: String, home: String) {
        self.directory = Array(directory.utf8)
        self.home = Array(home.utf8)
    }

    /// Does what a packet asks for; its length is cut off already.
    /// - Returns: false if the client does not speak the protocol.
    func handle(_ packet: ArraySlice<UInt8>) -> Bool {
        var reader = SFTPReader(packet)
        guard let kind = try? reader.byte(), let first = try? reader.number() else { return false }
        guard isInitialized else { return initialize(kind) }
        let start = answers.bytes.count
        do throws(SFTPFailure) {
            guard let kind = SFTPKind(rawValue: kind) else {
                throw SFTPFailure(status: .unsupported, message: "packet of type \(kind)")
            }
            try perform(kind, first, &reader)
        } catch {
            answers.rewind(to: start)
            answerStatus(first, error.status, error.message)
        }
        return true
    }

    private func initialize(_ kind: UInt8) -> Bool {
        guard kind == SFTPKind.initialize.rawValue else { return false }
        isInitialized = true
        answers.packet(.version) { writer in
            writer.number(3)
            for (name, version) in Self.extensions {
                writer.string(name)
                writer.string(version)
            }
        }
        return true
    }

    private static let extensions = [
        ("posix-rename@openssh.com", "1"), ("statvfs@openssh.com", "2"), ("fstatvfs@openssh.com", "2"),
        ("hardlink@openssh.com", "1"), ("fsync@openssh.com", "1"), ("lsetstat@openssh.com", "1"),
        ("limits@openssh.com", "1"), ("expand-path@openssh.com", "1"),
    ]

    private func perform(_ kind: SFTPKind, _ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        switch kind {
        case .open: try open(id, &reader)
        case .close: try close(id, &reader)
        case .read: try read(id, &reader)
        case .write: try write(id, &reader)
        case .lstat: answerAttributes(id, try status(path(&reader), followLinks: false))
        case .stat: answerAttributes(id, try status(path(&reader)))
        case .fstat: answerAttributes(id, try status(file(&reader).file))
        case .setstat: try setAttributes(id, &reader, followLinks: true)
        case .fsetstat: try setFileAttributes(id, &reader)
        case .openDirectory: try openDirectory(id, &reader)
        case .readDirectory: try readDirectory(id, &reader)
        case .remove: try done(id, unlink(path(&reader)))
        case .makeDirectory: try makeDirectory(id, &reader)
        case .removeDirectory: try done(id, rmdir(path(&reader)))
        case .realPath: answerName(id, try canonical(bytes(&reader)))
        case .rename: try rename(id, &reader)
        case .readLink: try readLink(id, &reader)
        case .symbolicLink: try makeSymbolicLink(id, &reader)
        case .extended: try performExtended(id, &reader)
        case .initialize, .version, .status, .handle, .data, .name, .attributes, .extendedReply:
            throw SFTPFailure(status: .badMessage, message: "packet of type \(kind.rawValue)")
        }
    }

    private func performExtended(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let name = try reader.string()
        switch name {
        case "posix-rename@openssh.com": try done(id, Glibc.rename(path(&reader), path(&reader)))
        case "hardlink@openssh.com": try done(id, link(path(&reader), path(&reader)))
        case "fsync@openssh.com": try done(id, fsync(file(&reader).file.descriptor))
        case "lsetstat@openssh.com": try setAttributes(id, &reader, followLinks: false)
        case "statvfs@openssh.com":
            var space = statvfs()
            try check(statvfs(path(&reader), &space))
            answerSpace(id, space)
        case "fstatvfs@openssh.com":
            var space = statvfs()
            try check(fstatvfs(file(&reader).file.descriptor, &space))
            answerSpace(id, space)
        case "limits@openssh.com": answerLimits(id)
        case "expand-path@openssh.com": answerName(id, try canonical(expanded(bytes(&reader))))
        default: throw SFTPFailure(status: .unsupported, message: "extension \(name)")
        }
    }

    // MARK: - Arguments

    private func bytes(_ reader: inout SFTPReader) throws(SFTPFailure) -> [UInt8] {
        let path = try reader.bytes()
        guard path.count < pathLimitBytes else { throw .system(ENAMETOOLONG) }
        guard !path.contains(0) else { throw SFTPFailure(status: .failure, message: "the path holds a NUL") }
        return Array(path)
    }

    /// A path as system calls take it.
    private func path(_ reader: inout SFTPReader) throws(SFTPFailure) -> [CChar] { absolute(try bytes(&reader)) }

    private func absolute(_ path: [UInt8]) -> [CChar] {
        let whole = path.first == slash ? path : path.isEmpty ? directory : directory + [slash] + path
        return cString(whole)
    }

    private func cString(_ bytes: [UInt8]) -> [CChar] { bytes.map { CChar(bitPattern: $0) } + [0] }

    private func expanded(_ path: [UInt8]) -> [UInt8] {
        guard path.first == UInt8(ascii: "~"), path.count == 1 || path[1] == slash else { return path }
        return home + path.dropFirst()
    }

    private func handleNumber(_ reader: inout SFTPReader) throws(SFTPFailure) -> UInt32 {
        var handle = SFTPReader(try reader.bytes())
        return try handle.number()
    }

    private func file(_ reader: inout SFTPReader) throws(SFTPFailure) -> (file: OpenFile, appends: Bool) {
        guard case .file(let file, let appends) = handles[try handleNumber(&reader)] else {
            throw SFTPFailure(status: .failure, message: "no such handle of a file")
        }
        return (file, appends)
    }

    // MARK: - Answers

    private func answerStatus(_ id: UInt32, _ status: SFTPStatus, _ message: String = "") {
        answers.packet(.status) { writer in
            writer.number(id)
            writer.number(status.rawValue)
            writer.string(message)
            writer.string("")
        }
    }

    private func done(_ id: UInt32, _ result: CInt) throws(SFTPFailure) {
        try check(result)
        answerStatus(id, .ok)
    }

    private func answerAttributes(_ id: UInt32, _ status: stat) {
        answers.packet(.attributes) { writer in
            writer.number(id)
            SFTPAttributes(status).write(to: &writer)
        }
    }

    private func answerName(_ id: UInt32, _ name: [UInt8]) {
        answers.packet(.name) { writer in
            writer.number(id)
            writer.number(1)
            writer.string(name)
            writer.string(name)
            writer.number(0)
        }
    }

    private func answerSpace(_ id: UInt32, _ space: statvfs) {
        let readOnly: UInt64 = space.f_flag & 1 == 0 ? 0 : 1
        let noSetID: UInt64 = space.f_flag & 2 == 0 ? 0 : 2
        answers.packet(.extendedReply) { writer in
            writer.number(id)
            for value in [
                UInt64(space.f_bsize), UInt64(space.f_frsize), UInt64(space.f_blocks), UInt64(space.f_bfree),
                UInt64(space.f_bavail), UInt64(space.f_files), UInt64(space.f_ffree), UInt64(space.f_favail),
                UInt64(space.f_fsid), readOnly | noSetID, UInt64(space.f_namemax),
            ] { writer.longNumber(value) }
        }
    }

    private func answerLimits(_ id: UInt32) {
        answers.packet(.extendedReply) { writer in
            writer.number(id)
            for limit in [SFTPLimit.packetBytes, SFTPLimit.dataBytes, SFTPLimit.dataBytes, SFTPLimit.handles] {
                writer.longNumber(UInt64(limit))
            }
        }
    }

    // MARK: - Files

    private func add(_ handle: Handle, _ id: UInt32) {
        lastHandle &+= 1
        while handles[lastHandle] != nil { lastHandle &+= 1 }
        handles[lastHandle] = handle
        answers.packet(.handle) { writer in
            writer.number(id)
            writer.number(4)
            writer.number(lastHandle)
        }
    }

    private func checkRoom() throws(SFTPFailure) {
        guard handles.count < SFTPLimit.handles else {
            throw SFTPFailure(
                status: .failure,
                message: "\(handles.count) files are open, the limit is \(SFTPLimit.handles)"
            )
        }
    }

    private func open(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        try checkRoom()
        let path = try path(&reader)
        let wish = try reader.number()
        let attributes = try SFTPAttributes(&reader)
        let (reads, writes, appends) = (wish & 1 != 0, wish & 2 != 0, wish & 4 != 0)
        var flags = writes || appends ? (reads ? O_RDWR : O_WRONLY) : O_RDONLY
        if appends { flags |= O_APPEND }
        if wish & 8 != 0 { flags |= O_CREAT }
        if wish & 0x10 != 0 { flags |= O_TRUNC }
        if wish & 0x20 != 0 { flags |= O_EXCL }
        // Opening a FIFO or a device must not wait.
        flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK
        let descriptor = try check(Glibc.open(path, flags, attributes.mode(else: 0o666)))
        add(.file(OpenFile(owning: descriptor), appends: appends), id)
    }

    private func close(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        guard handles.removeValue(forKey: try handleNumber(&reader)) != nil else {
            throw SFTPFailure(status: .failure, message: "no such handle")
        }
        answerStatus(id, .ok)
    }

    private func read(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let file = try file(&reader).file
        guard let offset = off_t(exactly: try reader.longNumber()) else { throw .system(EINVAL) }
        let wanted = min(Int(try reader.number()), SFTPLimit.dataBytes)
        var count = 0
        var failure: CInt = 0
        answers.packet(.data) { writer in
            writer.number(id)
            count = writer.string(upTo: wanted) { place in
                let count = pread(file.descriptor, place.baseAddress, wanted, offset)
                failure = errno
                return count
            }
        }
        if count < 0 { throw .system(failure) }
        if count == 0 { throw SFTPFailure(status: .endOfFile, message: "end of file") }
    }

    private func write(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let (file, appends) = try file(&reader)
        guard let offset = off_t(exactly: try reader.longNumber()) else { throw .system(EINVAL) }
        let data = try reader.bytes()
        var written = 0
        while written < data.count {
            let count = data.withUnsafeBytes { raw in
                let (start, length) = (raw.baseAddress.map { $0 + written }, raw.count - written)
                return appends
                    ? Glibc.write(file.descriptor, start, length)
                    : pwrite(file.descriptor, start, length, offset + off_t(written))
            }
            if count < 0 && errno == EINTR { continue }
            try check(count)
            written += count
        }
        answerStatus(id, .ok)
    }

    private func status(_ path: [CChar], followLinks: Bool = true) throws(SFTPFailure) -> stat {
        var status = stat()
        try check(fstatat(AT_FDCWD, path, &status, followLinks ? 0 : AT_SYMLINK_NOFOLLOW))
        return status
    }

    private func status(_ file: OpenFile) throws(SFTPFailure) -> stat {
        var status = stat()
        try check(fstat(file.descriptor, &status))
        return status
    }

    private func setAttributes(_ id: UInt32, _ reader: inout SFTPReader, followLinks: Bool) throws(SFTPFailure) {
        let path = try path(&reader)
        let flags = followLinks ? 0 : AT_SYMLINK_NOFOLLOW
        try SFTPAttributes(&reader).apply(
            truncate: { length in
                guard followLinks else { return fail(EINVAL) }
                return Glibc.truncate(path, length)
            },
            chown: { fchownat(AT_FDCWD, path, $0, $1, flags) },
            chmod: { fchmodat(AT_FDCWD, path, $0, flags) },
            utimens: { utimensat(AT_FDCWD, path, $0, flags) }
        )
        answerStatus(id, .ok)
    }

    private func setFileAttributes(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let descriptor = try file(&reader).file.descriptor
        try SFTPAttributes(&reader).apply(
            truncate: { ftruncate(descriptor, $0) },
            chown: { fchown(descriptor, $0, $1) },
            chmod: { fchmod(descriptor, $0) },
            utimens: { futimens(descriptor, $0) }
        )
        answerStatus(id, .ok)
    }

    private func fail(_ number: CInt) -> CInt {
        errno = number
        return -1
    }

    // MARK: - Directories and names

    private func openDirectory(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        try checkRoom()
        let path = try path(&reader)
        guard let stream = try? DirectoryStream(path, followLinks: true, to: "list") else { throw .system(errno) }
        add(.directory(stream, path: path.dropLast().map { UInt8(bitPattern: $0) }), id)
    }

    private func readDirectory(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        guard case .directory(let stream, _) = handles[try handleNumber(&reader)] else {
            throw SFTPFailure(status: .failure, message: "no such handle of a directory")
        }
        var entries: [(name: [UInt8], status: stat)] = []
        while entries.count < SFTPLimit.entries, let name = stream.next() {
            var status = stat()
            // What is gone meanwhile is left out.
            guard fstatat(stream.descriptor, name.bytes, &status, AT_SYMLINK_NOFOLLOW) == 0 else { continue }
            entries.append((name.bytes.dropLast().map { UInt8(bitPattern: $0) }, status))
        }
        guard !entries.isEmpty else { throw SFTPFailure(status: .endOfFile, message: "end of directory") }
        answers.packet(.name) { writer in
            writer.number(id)
            writer.number(UInt32(entries.count))
            for (name, status) in entries {
                writer.string(name)
                writer.string(listingLine(name, status, accounts))
                SFTPAttributes(status).write(to: &writer)
            }
        }
    }

    private func makeDirectory(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let path = try path(&reader)
        try done(id, mkdir(path, SFTPAttributes(&reader).mode(else: 0o777)))
    }

    /// Version 3 says that renaming replaces nothing; `posix-rename@openssh.com` does, atomically.
    private func rename(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let (old, new) = (try path(&reader), try path(&reader))
        let result = martlet_rename_exclusive(old, new)
        guard result == -EINVAL || result == -ENOSYS else {
            if result < 0 { throw .system(-result) }
            return answerStatus(id, .ok)
        }
        // A file system that cannot do it in one step.
        var status = stat()
        guard lstat(new, &status) != 0 else { throw .system(EEXIST) }
        try done(id, Glibc.rename(old, new))
    }

    private func readLink(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        var target = [CChar](repeating: 0, count: pathLimitBytes)
        let length = try check(readlink(path(&reader), &target, target.count))
        answerName(id, target.prefix(length).map { UInt8(bitPattern: $0) })
    }

    /// OpenSSH's client and server have the arguments the other way round than the draft, and so has everybody since.
    private func makeSymbolicLink(_ id: UInt32, _ reader: inout SFTPReader) throws(SFTPFailure) {
        let target = cString(try bytes(&reader))
        try done(id, symlink(target, path(&reader)))
    }

    /// The path without links and dots. Its last part need not be there.
    private func canonical(_ path: [UInt8]) throws(SFTPFailure) -> [UInt8] {
        let whole = absolute(path)
        if let found = resolved(whole) { return found }
        guard errno == ENOENT else { throw .system(errno) }
        let parts = whole.dropLast().map { UInt8(bitPattern: $0) }.split(separator: slash)
        guard let last = parts.last, last != [dot], last != [dot, dot] else { throw .system(ENOENT) }
        let parent = parts.dropLast().flatMap { [slash] + $0 }
        guard let found = resolved(cString(parent.isEmpty ? [slash] : parent)) else { throw .system(errno) }
        return (found == [slash] ? [] : found) + [slash] + last
    }

    private func resolved(_ path: [CChar]) -> [UInt8]? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        return Array(UnsafeRawBufferPointer(start: found, count: strlen(found)))
    }
}

private let slash = UInt8(ascii: "/")
private let dot = UInt8(ascii: ".")
