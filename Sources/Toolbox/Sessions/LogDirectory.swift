import CLinux
import Glibc
import NIOCore
import Synchronization

/// Where the daemon keeps output that is too much for memory: a directory without a guessable name, made when it is needed
/// first. A lock on it says that its owner lives; the directories of daemons that were killed are removed by the next one.
package final class LogDirectory: Sendable {
    private static let prefix = ".martlet-logs-"
    /// The name before the lock is taken: nobody removes such a one.
    private static let unlockedPrefix = ".martlet-new-"

    private struct State {
        var directory: OpenFile?
        var parent = ""
        var name = ""
        var fileCount = 0
    }

    private let state = Mutex(State())
    private let parents: [String]

    /// - Parameter parents: directories to try, in this order.
    package init(in parents: [String]) {
        self.parents = parents
    }

    /// A new file. If somebody removed the directory, another is made. Blocks.
    /// - Throws: `IOError` of the last parent that was tried.
    func makeFile() throws -> LogFile {
        do {
            return try makeFile(in: try opened())
        } catch let error as LogFileError where error.number == ENOENT {
            state.withLock { $0.directory = nil }
            return try makeFile(in: try opened())
        }
    }

    /// Removes the directory with all that is in it. Blocks.
    package func remove() {
        let (parent, name) = state.withLock { state in
            defer { state.directory = nil }
            return state.directory == nil ? ("", "") : (state.parent, state.name)
        }
        if !name.isEmpty { Self.remove(name, in: parent) }
    }

    private func makeFile(in directory: OpenFile) throws -> LogFile {
        let number = state.withLock { state in
            state.fileCount += 1
            return state.fileCount
        }
        let file = LogFile(directory: directory, name: String(number))
        _ = try file.open(O_WRONLY | O_CREAT | O_EXCL)
        return file
    }

    private func opened() throws -> OpenFile {
        if let known = state.withLock({ $0.directory }) { return known }
        var failure = LogFileError(number: ENOENT)
        for parent in parents {
            do { return keep(try Self.make(in: parent)) } catch let error as LogFileError { failure = error }
        }
        throw failure
    }

    /// Of two that were made at the same time, the first is kept.
    private func keep(_ made: (directory: OpenFile, parent: String, name: String)) -> OpenFile {
        let kept = state.withLock { state -> OpenFile in
            if let earlier = state.directory { return earlier }
            (state.directory, state.parent, state.name) = made
            return made.directory
        }
        if kept !== made.directory { Self.remove(made.name, in: made.parent) }
        return kept
    }

    private static func make(in parent: String) throws -> (directory: OpenFile, parent: String, name: String) {
        var template = Array("\(parent)/\(unlockedPrefix)XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw LogFileError(number: errno) }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let name = prefix + path.suffix(6)
        let descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard descriptor >= 0 else { throw LogFileError(number: errno) }
        let directory = OpenFile(owning: descriptor)
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0, martlet_rename_exclusive(path, "\(parent)/\(name)") == 0 else {
            let failure = errno
            rmdir(path)
            throw LogFileError(number: failure)
        }
        removeAbandoned(in: parent)
        return (directory, parent, name)
    }

    /// Whoever lives holds the lock on its directory.
    private static func removeAbandoned(in parent: String) {
        guard let siblings = try? DirectoryStream(parent, followLinks: true, to: "read") else { return }
        while let name = siblings.next() {
            guard name.text.hasPrefix(prefix) else { continue }
            remove(name.text, in: parent, unlessLocked: true)
        }
    }

    private static func remove(_ name: String, in parent: String, unlessLocked: Bool = false) {
        let path = "\(parent)/\(name)"
        guard let directory = try? DirectoryStream(path, followLinks: false, to: "remove") else { return }
        if unlessLocked, flock(directory.descriptor, LOCK_EX | LOCK_NB) != 0 { return }
        for entry in directory.names() { unlinkat(directory.descriptor, entry.bytes, 0) }
        rmdir(path)
    }
}

/// Why a file of a log cannot be used.
struct LogFileError: Error, Equatable {
    var number: CInt
}

/// One file of a log. It is not kept open, so that thousands of logs cost no descriptor. All functions block.
struct LogFile: Sendable {
    fileprivate let directory: OpenFile
    fileprivate let name: String

    fileprivate func open(_ flags: CInt) throws -> OpenFile {
        let descriptor = openat(directory.descriptor, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0o600)
        guard descriptor >= 0 else { throw LogFileError(number: errno) }
        return OpenFile(owning: descriptor)
    }

    /// Writes at an offset, which is the end unless somebody meddled.
    func write(_ bytes: ByteBuffer, at offset: Int) throws {
        do {
            try open(O_WRONLY).write(bytes, at: Int64(offset))
        } catch let error as IOError {
            throw LogFileError(number: error.errnoCode)
        }
    }

    /// Reads up to `count` bytes from an offset.
    func read(_ count: Int, at offset: Int) throws -> ByteBuffer {
        try open(O_RDONLY).read(count, at: Int64(offset))
    }

    func remove() {
        unlinkat(directory.descriptor, name, 0)
    }
}
