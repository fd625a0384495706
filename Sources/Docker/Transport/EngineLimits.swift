/// The bounds of every call to the engine.
package struct EngineLimits: Sendable, Hashable {
    /// For reads and small writes.
    package var call: Duration
    /// For create, start and remove, which touch the storage driver and queue behind each other in the engine.
    package var lifecycle: Duration
    /// For moving an image.
    package var transfer: Duration
    /// The largest answer that is read into memory.
    package var bodyBytes: Int
    /// Connections kept to the socket; each event stream, log stream and wait occupies one.
    package var connections: Int

    package init(
        call: Duration = .seconds(30),
        lifecycle: Duration = .seconds(120),
        transfer: Duration = .seconds(1800),
        bodyBytes: Int = 16 << 20,
        connections: Int = 128
    ) {
        self.call = call
        self.lifecycle = lifecycle
        self.transfer = transfer
        self.bodyBytes = bodyBytes
        self.connections = connections
    }
}
