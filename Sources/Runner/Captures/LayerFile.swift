import Crypto
import Domain
#if canImport(Glibc)
    import Glibc
#endif

/// A layer that is being written into a file of the host's, and hashed on the way.
struct LayerFile: ~Copyable {
    private static let bufferBytes = 1 << 20
    /// How much is written between looks at how much room is left.
    private static let unseenBytes: Int64 = 64 << 20

    private let file: CInt
    private var buffer: [UInt8] = []
    private var hasher = SHA256()
    private(set) var bytes: Int64 = 0
    private let path: String
    private var seenAt: Int64 = 0

    /// Begins a new file, instead of one that may be there.
    init(_ path: String) throws {
        unlink(path)
        self.path = path
        file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw CaptureTrouble("cannot write \(path): \(words(errno))") }
        buffer.reserveCapacity(2 * Self.bufferBytes)
    }

    deinit { close(file) }

    mutating func append(_ content: some Collection<UInt8>) throws {
        buffer += content
        bytes += Int64(content.count)
        if buffer.count >= Self.bufferBytes { try flush() }
    }

    mutating func append(_ entry: LayerEntry) throws { try append(entry.header) }

    /// Ends the layer. Returns its digest, `sha256:…`.
    mutating func finish() throws -> String {
        try append(LayerEntry.end)
        try flush()
        return "sha256:" + hasher.finalize().hexadecimal
    }

    private mutating func flush() throws {
        if bytes - seenAt >= Self.unseenBytes {
            seenAt = bytes
            try CaptureRoom.judge(path, before: 0)
        }
        hasher.update(data: buffer)
        var written = 0
        while written < buffer.count {
            let count = buffer[written...].withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                let number = errno
                throw CaptureTrouble(
                    "cannot write the layer: \(words(number)); give the runner's disk more room",
                    number == ENOSPC || number == EDQUOT ? .lasting : .passing
                )
            }
            written += count
        }
        buffer.removeAll(keepingCapacity: true)
    }
}
