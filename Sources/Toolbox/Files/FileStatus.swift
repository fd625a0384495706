import CLinux
import Glibc

/// What a file is.
package struct FileStatus: Sendable {
    package enum Kind: Sendable {
        case regular, directory, link, fifo, socket, device

        /// In words.
        package var name: String {
            switch self {
            case .regular: "regular file"
            case .directory: "directory"
            case .link: "link"
            case .fifo: "FIFO"
            case .socket: "socket"
            case .device: "device"
            }
        }
    }

    package var kind: Kind
    /// Permission bits with set-id and sticky.
    package var permissions: UInt32
    package var user: UInt32
    package var group: UInt32
    package var size: Int
    package var modifiedSeconds: Int64
    package var modifiedNanoseconds: Int64
    package var device: UInt64
    package var inode: UInt64

    /// Of a path; a final link is followed or is what is described. Nil if there is nothing. Blocks.
    /// - Throws: the file error for `action`.
    package static func of(
        _ path: String,
        below directory: CInt = AT_FDCWD,
        followLinks: Bool = true,
        to action: String = "read"
    ) throws -> FileStatus? {
        var status = martlet_file_status()
        let result = martlet_status_at(directory, path, followLinks ? 1 : 0, &status)
        if result == -ENOENT { return nil }
        guard result == 0 else { throw ToolboxError.file(-result, action, path) }
        return FileStatus(status)
    }

    /// Of an entry of a directory, by its raw name (ends with NUL), never following a link. Nil if it cannot be seen. Blocks.
    package static func of(entry name: UnsafeBufferPointer<CChar>, below directory: CInt) -> FileStatus? {
        var status = martlet_file_status()
        guard let start = name.baseAddress, martlet_status_at(directory, start, 0, &status) == 0 else { return nil }
        return FileStatus(status)
    }

    /// Of an open file. Blocks.
    package static func of(_ file: OpenFile) -> FileStatus? {
        var status = martlet_file_status()
        return martlet_status_of(file.descriptor, &status) == 0 ? FileStatus(status) : nil
    }

    private init(_ status: martlet_file_status) {
        kind = Self.kind(status.mode)
        permissions = status.mode & 0o7777
        user = status.user
        group = status.group
        size = Int(status.size)
        modifiedSeconds = status.modified_seconds
        modifiedNanoseconds = status.modified_nanoseconds
        device = status.device
        inode = status.inode
    }

    private static func kind(_ mode: UInt32) -> Kind {
        switch mode & 0o170000 {
        case 0o100000: .regular
        case 0o040000: .directory
        case 0o120000: .link
        case 0o010000: .fifo
        case 0o140000: .socket
        default: .device
        }
    }
}
