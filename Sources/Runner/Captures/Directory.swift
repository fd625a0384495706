import CLinux

#if canImport(Glibc)
    import Glibc
#endif

/// An opened folder of a stranger's tree. Everything is reached from its descriptor, and no link is followed.
final class Directory {
    private let descriptor: CInt
    let status: stat

    convenience init(_ path: String) throws {
        try self.init(open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), path)
    }

    private init(_ opened: CInt, _ name: String) throws {
        guard opened >= 0 else { throw CaptureTrouble("cannot open \(name): \(words(errno))") }
        descriptor = opened
        var status = stat()
        guard fstat(opened, &status) == 0 else {
            let number = errno
            close(opened)
            throw CaptureTrouble("cannot look at \(name): \(words(number))")
        }
        self.status = status
    }

    deinit { close(descriptor) }

    /// What is in it but itself and its parent, in order.
    ///
    /// - Parameter limits: `names` is how many there may be, `bytes` how much memory they may take.
    func names(within limits: NameLimits) throws -> NameList {
        guard let stream = fdopendir(openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) else {
            throw CaptureTrouble("cannot list a folder: \(words(errno))")
        }
        defer { closedir(stream) }
        var list = NameList()
        errno = 0
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: UInt8.self, capacity: 256) { bytes in
                    Array(
                        UnsafeBufferPointer(
                            start: bytes,
                            count: strlen(UnsafeRawPointer(bytes).assumingMemoryBound(to: CChar.self))
                        )
                    )
                }
            }
            if name.elementsEqual(".".utf8) || name.elementsEqual("..".utf8) { continue }
            list.append(name)
            try limits.judge(list)
            errno = 0
        }
        guard errno == 0 else { throw CaptureTrouble("cannot list a folder: \(words(errno))") }
        list.names.sort { $0.lexicographicallyPrecedes($1) }
        return list
    }

    func status(of name: [UInt8]) throws -> stat {
        guard let status = try statusIfPresent(of: name) else {
            throw CaptureTrouble("a file disappeared from a frozen folder")
        }
        return status
    }

    func statusIfPresent(of name: [UInt8]) throws -> stat? {
        var status = stat()
        if withCString(name, { fstatat(descriptor, $0, &status, AT_SYMLINK_NOFOLLOW) }) == 0 { return status }
        guard errno == ENOENT else { throw CaptureTrouble("cannot look at '\(text(name))': \(words(errno))") }
        return nil
    }

    func directory(_ name: [UInt8]) throws -> Directory {
        try Directory(
            withCString(name) { openat(descriptor, $0, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) },
            text(name)
        )
    }

    func file(_ name: [UInt8]) throws -> OpenedFile {
        // Not blocking: what is no plain file is never waited for.
        let opened = withCString(name) { openat(descriptor, $0, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) }
        guard opened >= 0 else { throw CaptureTrouble("cannot open '\(text(name))': \(words(errno))") }
        return OpenedFile(opened)
    }

    func target(of link: [UInt8]) throws -> [UInt8] {
        let bytes = [UInt8](unsafeUninitializedCapacity: Int(PATH_MAX)) { buffer, count in
            count = max(
                0,
                withCString(link) { name in
                    buffer.withMemoryRebound(to: CChar.self) { readlinkat(descriptor, name, $0.baseAddress!, $0.count) }
                }
            )
        }
        guard !bytes.isEmpty else { throw CaptureTrouble("cannot read the link '\(text(link))': \(words(errno))") }
        return bytes
    }

    // MARK: - Extended attributes

    func attributes() throws -> [LayerEntry.Attribute] {
        try attributes(at: Array("/proc/self/fd/\(descriptor)/.".utf8))
    }

    /// The last part of the path is not followed; the descriptor stands for all before it.
    func attributes(of name: [UInt8]) throws -> [LayerEntry.Attribute] {
        try attributes(at: Array("/proc/self/fd/\(descriptor)/".utf8) + name)
    }

    private static let namesLimit = 65_536
    private static let valueLimit = 65_536
    /// Of all that are kept of one file.
    private static let attributesLimit = 1 << 20
    /// What a sandbox can set and an image can hold.
    private static func isKept(_ name: [UInt8]) -> Bool {
        name.starts(with: "user.".utf8) || name.elementsEqual("security.capability".utf8)
            || name.starts(with: "system.posix_acl_".utf8)
    }

    /// Set by overlayfs alone: part of the file, or what is in the folder, is elsewhere.
    private static func judge(_ name: [UInt8]) throws {
        if name.elementsEqual("trusted.overlay.redirect".utf8) {
            throw CaptureRefused(
                "a folder of the image was renamed, which the kernel of this runner's host notes in a way that images do not have (overlayfs with redirect_dir=on); replace it by a copy: cp -a"
            )
        }
        if name.elementsEqual("trusted.overlay.metacopy".utf8) {
            throw CaptureRefused(
                "the mode, owner or times of a file of the image were changed, which the kernel of this runner's host notes in a way that images do not have (overlayfs with metacopy=on); replace it by a copy: cp -p"
            )
        }
    }

    /// Whether overlayfs shows nothing of the folders below this one.
    var isOpaque: Bool {
        get throws {
            var value: UInt8 = 0
            let size = fgetxattr(descriptor, "trusted.overlay.opaque", &value, 1)
            guard size >= 0 || errno == ENODATA || errno == ENOTSUP || errno == ERANGE else {
                throw CaptureTrouble("cannot read extended attributes: \(words(errno))")
            }
            return size == 1 && value == UInt8(ascii: "y")
        }
    }

    private func attributes(at path: [UInt8]) throws -> [LayerEntry.Attribute] {
        try withCString(path) { path in
            let list = try bytes(upTo: Self.namesLimit) { llistxattr(path, $0, $1) }
            let names = list.split(separator: 0).map { Array($0) }
            for name in names { try Self.judge(name) }
            var left = Self.attributesLimit
            return try names.filter(Self.isKept).sorted { $0.lexicographicallyPrecedes($1) }.map { name in
                if name.contains(UInt8(ascii: "=")) || name.contains(UInt8(ascii: "\n")) {
                    throw CaptureRefused(
                        "the extended attribute '\(text(name))' has a name that images cannot hold; remove it"
                    )
                }
                let value = try withCString(name) { name in
                    try bytes(upTo: Self.valueLimit) { lgetxattr(path, name, $0, $1) }
                }
                left -= name.count + value.count
                guard left >= 0 else {
                    throw CaptureRefused(
                        "the extended attributes of a file take more than \(Self.attributesLimit >> 20) MiB ('\(text(name))' is among them); remove some"
                    )
                }
                return LayerEntry.Attribute(name: name, value: value)
            }
        }
    }

    private func bytes(upTo limit: Int, _ read: (UnsafeMutablePointer<CChar>?, Int) -> Int) throws -> [UInt8] {
        let size = read(nil, 0)
        if size == 0 || size < 0 && errno == ENOTSUP { return [] }
        guard size > 0, size <= limit else { throw CaptureTrouble("cannot read extended attributes: \(words(errno))") }
        var failure: CInt = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            let got = buffer.withMemoryRebound(to: CChar.self) { read($0.baseAddress, $0.count) }
            if got < 0 { failure = errno }
            count = max(0, got)
        }
        guard failure == 0 else { throw CaptureTrouble("cannot read extended attributes: \(words(failure))") }
        return bytes
    }
}

/// Names of a stranger's, and the memory that they take.
struct NameList {
    /// Of each name: its array, and its place in two collections.
    private static let overheadBytes = 80

    var names: [[UInt8]] = []
    private(set) var bytes = 0

    static func bytes(of name: [UInt8]) -> Int { name.count + overheadBytes }

    mutating func append(_ name: [UInt8]) {
        names.append(name)
        bytes += Self.bytes(of: name)
    }
}

struct NameLimits {
    let names: Int
    let bytes: Int

    func judge(_ list: NameList) throws {
        guard list.names.count <= names else {
            throw CaptureRefused("a folder has more than \(names) files; remove some, or pack them into an archive")
        }
        guard list.bytes <= bytes else {
            throw CaptureRefused(
                "the names of the files in a folder, and in those that it is in, are too long together to be held at once; move some files elsewhere, or pack them into an archive"
            )
        }
    }
}

/// A file that is read from its start to its end.
final class OpenedFile: Sendable {
    private let descriptor: CInt

    fileprivate init(_ descriptor: CInt) { self.descriptor = descriptor }

    /// A file of our own.
    init(_ path: String) throws {
        descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
        guard descriptor >= 0 else { throw CaptureTrouble("cannot open \(path): \(words(errno))") }
    }

    deinit { close(descriptor) }

    /// In bytes, as it is now.
    func size() throws -> Int64 {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw CaptureTrouble("cannot look at a file: \(words(errno))") }
        return Int64(status.st_size)
    }

    /// At least one byte: whoever asks knows that there are more.
    func read(atMost limit: Int) throws -> [UInt8] {
        while true {
            var failure: CInt = 0
            let chunk = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
                let got = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
                if got < 0 { failure = errno }
                count = max(0, got)
            }
            if failure == EINTR { continue }
            guard !chunk.isEmpty else {
                throw CaptureTrouble(
                    failure == 0 ? "a frozen file is shorter than it says" : "cannot read a file: \(words(failure))"
                )
            }
            return chunk
        }
    }
}

extension stat {
    var type: mode_t { st_mode & S_IFMT }

    /// By which overlayfs notes that a name of the folders below is gone.
    var isWhiteout: Bool { type == S_IFCHR && st_rdev == 0 }

    /// Both are the same file, in the same state.
    func isSame(as other: stat) -> Bool {
        st_ino == other.st_ino && st_mode == other.st_mode && st_uid == other.st_uid && st_gid == other.st_gid
            && st_size == other.st_size && st_rdev == other.st_rdev && st_nlink == other.st_nlink
            && st_ctim.tv_sec == other.st_ctim.tv_sec && st_ctim.tv_nsec == other.st_ctim.tv_nsec
            && st_mtim.tv_sec == other.st_mtim.tv_sec && st_mtim.tv_nsec == other.st_mtim.tv_nsec
    }
}

extension LayerEntry {
    mutating func take(_ status: stat) {
        mode = status.st_mode & 0o7777
        user = status.st_uid
        group = status.st_gid
        changed = Time(seconds: Int64(status.st_mtim.tv_sec), nanoseconds: Int64(status.st_mtim.tv_nsec))
        if kind == .characterDevice || kind == .blockDevice {
            (majorNumber, minorNumber) = (martlet_device_major(status.st_rdev), martlet_device_minor(status.st_rdev))
        }
    }
}

extension LayerEntry.Kind {
    init?(_ status: stat) {
        switch status.type {
        case S_IFREG: self = .file
        case S_IFLNK: self = .symbolicLink
        case S_IFCHR: self = .characterDevice
        case S_IFBLK: self = .blockDevice
        case S_IFDIR: self = .directory
        case S_IFIFO: self = .pipe
        default: return nil
        }
    }
}

private func withCString<Value>(_ bytes: [UInt8], _ body: (UnsafePointer<CChar>) throws -> Value) rethrows -> Value {
    try (bytes + [0]).withUnsafeBufferPointer { buffer in
        try buffer.withMemoryRebound(to: CChar.self) { try body($0.baseAddress!) }  // it has at least the zero
    }
}

private func text(_ name: [UInt8]) -> String { String(decoding: name.prefix(200), as: UTF8.self) }
