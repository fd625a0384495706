/// The statements prepared on one connection, the least recently used first to go.
struct StatementCache {
    private struct Entry {
        let name: String
        var lastUse: UInt64
    }

    private let limit: Int
    private var entries: [RenderedStatement.Shape: Entry] = [:]
    private var clock: UInt64 = 0

    /// Keeps at most `limit` statements, and at least one.
    init(limit: Int) { self.limit = max(1, limit) }

    var count: Int { entries.count }

    /// The name it is prepared under.
    mutating func name(for shape: RenderedStatement.Shape) -> String? {
        guard let entry = entries[shape] else { return nil }
        clock += 1
        entries[shape]?.lastUse = clock
        return entry.name
    }

    /// Takes out what must be deallocated before another one fits; nil while there is room.
    mutating func removeForRoom() -> String? {
        guard entries.count >= limit, let oldest = entries.min(by: { $0.value.lastUse < $1.value.lastUse }) else {
            return nil
        }
        entries.removeValue(forKey: oldest.key)
        return oldest.value.name
    }

    /// A name never used on this connection before.
    mutating func newName() -> String {
        clock += 1
        return "martlet_\(clock)"
    }

    mutating func insert(_ shape: RenderedStatement.Shape, as name: String) {
        clock += 1
        entries[shape] = Entry(name: name, lastUse: clock)
    }

    mutating func remove(_ shape: RenderedStatement.Shape) { entries.removeValue(forKey: shape) }

    mutating func removeAll() { entries = [:] }
}
