import CLinux
import Glibc
package import NIOCore
import NIOPosix

/// An open descriptor that is closed with the last reference. Its functions block: call them on the blocking threads.
package final class OpenFile: Sendable {
    package let descriptor: CInt

    /// Takes the descriptor over.
    package init(owning descriptor: CInt) {
        self.descriptor = descriptor
    }

    deinit {
        close(descriptor)
    }

    /// Opens a path. `O_CLOEXEC`, `O_NOCTTY` and `O_NONBLOCK` are always added: opening a FIFO or a device must not wait.
    /// - Throws: the file error for `action`.
    package static func open(_ path: String, _ flags: CInt, mode: UInt32 = 0o666, to action: String) throws -> OpenFile
    {
        let descriptor = Glibc.open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, mode)
        guard descriptor >= 0 else { throw ToolboxError.file(errno, action, path) }
        return OpenFile(owning: descriptor)
    }

    /// A file without a name, that goes away with its last descriptor: in `directory`, else in memory.
    package static func anonymous(in directory: String) throws -> OpenFile {
        let onDisk = Glibc.open(directory, martlet_o_tmpfile | O_RDWR | O_CLOEXEC, 0o600)
        if onDisk >= 0 { return OpenFile(owning: onDisk) }
        let inMemory = martlet_memory_file("martlet")
        guard inMemory >= 0 else { throw ToolboxError.file(-inMemory, "create a temporary file in", directory) }
        return OpenFile(owning: inMemory)
    }

    /// Writes all of it at the descriptor's position.
    package func write(_ bytes: ByteBufferView) throws {
        try bytes.withUnsafeBytes { raw in
            var written = 0
            while written < raw.count {
                let count = Glibc.write(descriptor, raw.baseAddress! + written, raw.count - written)  // not empty here
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { throw IOError(errnoCode: errno, reason: "write") }
                written += count
            }
        }
    }

    /// Writes all of it at an offset.
    package func write(_ bytes: ByteBuffer, at offset: Int64) throws {
        try bytes.withUnsafeReadableBytes { raw in
            var written = 0
            while written < raw.count {
                let rest = UnsafeRawBufferPointer(rebasing: raw[written...])
                let count = pwrite(descriptor, rest.baseAddress, rest.count, off_t(offset) + off_t(written))
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { throw IOError(errnoCode: errno, reason: "write") }
                written += count
            }
        }
    }

    /// Reads up to `count` bytes from an offset; an empty buffer is the end of the file.
    package func read(_ count: Int, at offset: Int64) throws -> ByteBuffer {
        var buffer = ByteBufferAllocator().buffer(capacity: count)
        try buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { raw in
            while true {
                let filled = pread(descriptor, raw.baseAddress, count, off_t(offset))
                if filled < 0 && errno == EINTR { continue }
                guard filled >= 0 else { throw IOError(errnoCode: errno, reason: "read") }
                return filled
            }
        }
        return buffer
    }
}

/// Reads a file piece by piece, on the blocking threads.
package struct FilePieces: Sendable {
    private static let pieceBytes = 256 << 10

    private let file: OpenFile
    private let count: Int
    /// Bytes read so far.
    package private(set) var offset = 0

    /// - Parameter count: where to stop, unless the file ends before.
    package init(_ file: OpenFile, count: Int) {
        self.file = file
        self.count = count
    }

    /// The next piece, nil at the end.
    package mutating func next() async throws -> ByteBuffer? {
        guard offset < count else { return nil }
        let (file, at, wanted) = (file, Int64(offset), min(Self.pieceBytes, count - offset))
        let piece = try await onBlockingThread { try file.read(wanted, at: at) }
        offset += piece.readableBytes
        return piece.readableBytes == 0 ? nil : piece
    }
}

/// Made when first asked for: an idle daemon has no threads for it.
private let treeThreads = {
    let pool = NIOThreadPool(numberOfThreads: 2)
    pool.start()
    return pool
}()

/// Runs what goes through a whole tree of files on threads of its own: programs start and logs are written on the blocking
/// threads, and must never wait for it.
package func onTreeThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await treeThreads.runIfActive(body)
}

/// Runs a blocking function on the blocking threads, never on the cooperative pool or an event loop.
package func onBlockingThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await NIOThreadPool.singleton.runIfActive(body)
}
