import CLinux
import Glibc

/// A name as the file system has it: any bytes but `/` and NUL.
package struct RawName: Sendable {
    /// Ends with NUL.
    package let bytes: [CChar]

    package init(_ name: UnsafePointer<CChar>) {
        bytes = Array(UnsafeBufferPointer(start: name, count: strlen(name) + 1))
    }

    /// Bytes that are no UTF-8 are replaced.
    package var text: String { String(decoding: bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) }
}

/// An opened directory. What is done to its entries is done relative to its descriptor, so nobody can exchange a directory
/// above meanwhile. All functions block.
package final class DirectoryStream {
    private let stream: UnsafeMutableRawPointer
    package let descriptor: CInt

    /// Opens a directory below another (AT_FDCWD for a path); a link is followed only if asked.
    /// - Throws: the file error for `action`.
    package init(_ path: UnsafePointer<CChar>, below parent: CInt = AT_FDCWD, followLinks: Bool, to action: String)
        throws
    {
        let flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (followLinks ? 0 : O_NOFOLLOW)
        descriptor = openat(parent, path, flags)
        guard descriptor >= 0 else { throw ToolboxError.file(errno, action, String(cString: path)) }
        guard let stream = martlet_directory_open(descriptor) else {
            let failure = errno
            close(descriptor)
            throw ToolboxError.file(failure, action, String(cString: path))
        }
        self.stream = stream
    }

    deinit {
        martlet_directory_close(stream)
    }

    /// The next entry, nil at the end.
    package func next() -> RawName? {
        martlet_directory_next(stream).map { RawName($0) }
    }

    /// All entries.
    package func names() -> [RawName] {
        var all: [RawName] = []
        while let name = next() { all.append(name) }
        return all
    }
}
