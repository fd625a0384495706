import CLinux

/// Whether the runner's disk has room for a layer, twice: in a file, and as the engine unpacks it. What is not enough is told with
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
        let isOneDisk = try Self.room(in: layers) == Self.room(in: engine)
        try Self.judge(layers, before: isOneDisk ? 2 * bytes : bytes)
        try Self.judge(engine, before: bytes)
    }

    func judge(beforeLoading bytes: Int64) throws { try Self.judge(engine, before: bytes) }

    static func judge(_ path: String, before bytes: Int64, reserve: Int64 = reserveBytes) throws {
        let free = try room(in: path).free
        guard free - bytes < reserve else { return }
        throw CaptureTrouble(
            "the runner's disk has \(free >> 20) MiB left at \(path); the capture needs \(bytes >> 20) MiB, and leaves \(reserve >> 20) MiB free: remove images or sandboxes from that runner, or give it a larger disk (the operator)",
            .lasting
        )
    }

    private static func room(in path: String) throws -> (total: UInt64, free: Int64) {
        var (total, free, freeToRoot) = (UInt64(0), UInt64(0), UInt64(0))
        let result = martlet_space(path, &total, &free, &freeToRoot)
        guard result == 0 else { throw CaptureTrouble("cannot see how full \(path) is: \(words(-result))") }
        return (total, Int64(clamping: free))
    }
}
