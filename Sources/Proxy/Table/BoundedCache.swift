/// A dictionary with a bound: two generations, the older of which is dropped when the younger is full.
///
/// What was used lately survives, every operation takes constant time, and there is no list to keep in order.
struct BoundedCache<Key: Hashable, Value> {
    private var young: [Key: Value] = [:]
    private var old: [Key: Value] = [:]
    private let generationLimit: Int

    /// At most `limit` entries are held.
    init(limit: Int) {
        generationLimit = max(1, limit / 2)
    }

    var count: Int { young.count + old.count }

    mutating func value(for key: Key) -> Value? {
        if let value = young[key] { return value }
        guard let value = old.removeValue(forKey: key) else { return nil }
        insert(value, for: key)
        return value
    }

    mutating func insert(_ value: Value, for key: Key) {
        if young.count >= generationLimit, young[key] == nil {
            old = young
            young = [:]
        }
        young[key] = value
        old.removeValue(forKey: key)
    }

    mutating func remove(_ key: Key) {
        young.removeValue(forKey: key)
        old.removeValue(forKey: key)
    }

    mutating func removeAll(where isDoomed: (Key, Value) -> Bool) {
        young = young.filter { !isDoomed($0.key, $0.value) }
        old = old.filter { !isDoomed($0.key, $0.value) }
    }
}
