import Glibc
import NIOCore
import Synchronization

/// Where recordings are: a directory of the sandbox's own disk that only its user can enter, made when it is needed first. It
/// stays when the daemon ends. All functions block.
final class RecordingDirectory: Sendable {
    private static let suffix = ".cast"

    private let opened = Mutex<OpenFile?>(nil)
    private let candidates: [String]

    /// - Parameter candidates: absolute paths, the first of which that can be had is taken.
    init(_ candidates: [String]) {
        self.candidates = candidates
    }

    /// A new file for a recording, locked for as long as it is open. If somebody removed the directory, another is made.
    /// - Throws: `IOError`, the last candidate's.
    func makeFile(_ id: RecordingID) throws -> OpenFile {
        let flags = O_WRONLY | O_CREAT | O_EXCL
        let file: OpenFile
        do {
            file = try open(id, flags, in: try directory(makes: true))
        } catch let error as IOError where error.errnoCode == ENOENT {
            opened.withLock { $0 = nil }
            file = try open(id, flags, in: try directory(makes: true))
        }
        _ = flock(file.descriptor, LOCK_EX | LOCK_NB)
        return file
    }

    /// A recording's file, for reading or for both.
    /// - Throws: `IOError`; ENOENT if it is not there, or is no regular file.
    func open(_ id: RecordingID, writes: Bool = false) throws -> OpenFile {
        let file = try open(id, writes ? O_RDWR : O_RDONLY, in: try directory(makes: false))
        guard FileStatus.of(file)?.kind == .regular else { throw IOError(errnoCode: ENOENT, reason: "open") }
        return file
    }

    /// Removes a recording's file, if it is there.
    func remove(_ id: RecordingID) {
        guard let directory = try? directory(makes: false) else { return }
        unlinkat(directory.descriptor, id.text + Self.suffix, 0)
    }

    /// Ids of recordings there are files of: of all, unless somebody put very many there.
    func ids() -> [RecordingID] {
        guard let directory = try? directory(makes: false),
            let names = try? DirectoryStream(".", below: directory.descriptor, followLinks: false, to: "read")
        else { return [] }
        var ids: [RecordingID] = []
        while ids.count < RecordingLimits.files, let name = names.next()?.text {
            if name.hasSuffix(Self.suffix), let id = RecordingID(String(name.dropLast(Self.suffix.count))) {
                ids.append(id)
            }
        }
        return ids
    }

    private func open(_ id: RecordingID, _ flags: CInt, in directory: OpenFile) throws -> OpenFile {
        let all = flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK
        let descriptor = openat(directory.descriptor, id.text + Self.suffix, all, 0o600)
        guard descriptor >= 0 else { throw IOError(errnoCode: errno, reason: "open") }
        return OpenFile(owning: descriptor)
    }

    private func directory(makes: Bool) throws -> OpenFile {
        if let known = opened.withLock({ $0 }) { return known }
        var failure = IOError(errnoCode: ENOENT, reason: "no directory for recordings")
        for path in candidates {
            do {
                if makes { try Self.make(path) }
                let found = try Self.enter(path)
                opened.withLock { $0 = found }
                return found
            } catch let error as IOError {
                failure = error
            } catch let error as ToolboxError {
                failure = IOError(errnoCode: EACCES, reason: error.message)
            }
        }
        throw failure
    }

    private static func make(_ path: String) throws {
        try makeDirectories(parentPath(path), mode: 0o755)
        guard mkdir(path, 0o700) == 0 || errno == EEXIST else { throw IOError(errnoCode: errno, reason: "mkdir") }
    }

    /// One that another user made, or that others can enter, is not ours, whatever its name.
    private static func enter(_ path: String) throws -> OpenFile {
        let descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard descriptor >= 0 else { throw IOError(errnoCode: errno, reason: "open") }
        let directory = OpenFile(owning: descriptor)
        guard let status = FileStatus.of(directory), status.user == geteuid(), status.permissions & 0o077 == 0 else {
            throw IOError(errnoCode: EPERM, reason: "\(path) belongs to somebody else")
        }
        return directory
    }
}
