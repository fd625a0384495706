#if canImport(Glibc)
    import Glibc
#endif

/// Whether the runner's disk has room for a layer, or an image, twice: in a file, and as the engine unpacks it. What is not enough is told with
/// numbers before anything is written, since the sandboxes of this host write there too.
struct CaptureRoom: Sendable {
    /// What a capture leaves free.
    static let reserveBytes: Int64 = 1 << 30

    /// The folder for layers.
    private let layers: String
    private let engine: String

    init(layers: String, engine: String) {
        self.layers = layers
        self.engine = engine
    }

    /// - Parameter bytes: about how large the layer will be.
    func judge(before bytes: Int64) throws {
        try Self.judge(layers, before: Self.isOneDisk(layers, engine) ? 2 * bytes : bytes)
        try Self.judge(engine, before: bytes)
    }

    func judge(beforeLoading bytes: Int64) throws { try Self.judge(engine, before: bytes) }

    static func judge(_ path: String, before bytes: Int64, reserve: Int64 = reserveBytes) throws {
        guard let free = DiskUsage(of: path)?.freeBytes else {
            throw CaptureTrouble("cannot see how full \(path) is: \(words(errno))")
        }
        guard free - bytes < reserve else { return }
        throw CaptureTrouble(
            "the runner's disk has \(free >> 20) MiB left at \(path); \(bytes >> 20) MiB are needed, and \(reserve >> 20) MiB stay free: remove images or sandboxes from that runner, or give it a larger disk (the operator)",
            .lasting
        )
    }

    /// Subvolumes of btrfs have devices of their own, so that the size tells too: of two disks of one size too much is asked. What is
    /// free changes from look to look.
    static func isOneDisk(_ one: String, _ other: String) throws -> Bool {
        try device(of: one) == device(of: other) || HostFacts.fileSystemBytes(one) == HostFacts.fileSystemBytes(other)
    }

    private static func device(of path: String) throws -> dev_t {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw CaptureTrouble("cannot see on which disk \(path) is: \(words(errno))")
        }
        return status.st_dev
    }
}
