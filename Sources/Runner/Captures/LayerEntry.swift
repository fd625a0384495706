/// One entry of a layer: a POSIX tar header, with what that has no room for in records before it (pax).
struct LayerEntry: Hashable {
    enum Kind: UInt8, Hashable {
        case file = 0x30
        case hardLink
        case symbolicLink
        case characterDevice
        case blockDevice
        case directory
        case pipe
    }

    static let blockBytes = 512

    /// Below the root, without a leading slash.
    var path: [UInt8]
    var kind: Kind
    var mode: UInt32 = 0
    var user: UInt32 = 0
    var group: UInt32 = 0
    var bytes: Int64 = 0
    var changed = Time()
    /// Of a symbolic link as it is; of a hard link, the path of the entry before it.
    var link: [UInt8] = []
    var majorNumber: UInt32 = 0
    var minorNumber: UInt32 = 0
    var attributes: [Attribute] = []

    struct Time: Hashable {
        var seconds: Int64 = 0
        var nanoseconds: Int64 = 0
    }

    /// An extended attribute.
    struct Attribute: Hashable {
        var name: [UInt8]
        var value: [UInt8]
    }

    /// The blocks before the content.
    var header: [UInt8] {
        let records = self.records
        var blocks: [UInt8] = []
        if !records.isEmpty {
            var extended = LayerEntry(path: Array("pax".utf8), kind: .file, mode: 0o644)
            extended.bytes = Int64(records.count)
            blocks += extended.block(letter: UInt8(ascii: "x"))
            blocks += records
            blocks += Self.padding(after: Int64(records.count))
        }
        return blocks + block(letter: kind.rawValue)
    }

    /// Zeros that fill the last block of so many bytes.
    static func padding(after bytes: Int64) -> [UInt8] {
        [UInt8](repeating: 0, count: (blockBytes - Int(bytes % Int64(blockBytes))) % blockBytes)
    }

    /// What a tar ends with.
    static let end = [UInt8](repeating: 0, count: 2 * blockBytes)

    // MARK: - Records

    private static let shortNumberLimit: UInt32 = 1 << 21
    private static let sizeLimit: Int64 = 1 << 33

    private var records: [UInt8] {
        var records: [UInt8] = []
        func add(_ name: String, _ value: [UInt8]) { records += Self.record(Array(name.utf8), value) }
        func add(_ name: String, _ value: some BinaryInteger) { add(name, Array("\(value)".utf8)) }
        if path.count > 100 || path.contains(where: { $0 >= 0x80 }) { add("path", path) }
        if link.count > 100 || link.contains(where: { $0 >= 0x80 }) { add("linkpath", link) }
        if bytes >= Self.sizeLimit { add("size", bytes) }
        if user >= Self.shortNumberLimit { add("uid", user) }
        if group >= Self.shortNumberLimit { add("gid", group) }
        if let time { add("mtime", time) }
        for its in attributes { records += Self.record(Array("SCHILY.xattr.".utf8) + its.name, its.value) }
        return records
    }

    /// Where whole seconds since 1970 do not say it.
    private var time: [UInt8]? {
        guard changed.nanoseconds > 0 || changed.seconds < 0 || changed.seconds >= Self.sizeLimit else { return nil }
        // Before 1970 the fraction counts from the other side.
        let isBefore = changed.seconds < 0 && changed.nanoseconds > 0
        let seconds = isBefore ? changed.seconds + 1 : changed.seconds
        let fraction = isBefore ? 1_000_000_000 - changed.nanoseconds : changed.nanoseconds
        let digits = String(fraction)
        let sign = isBefore && seconds == 0 ? "-" : ""
        return Array("\(sign)\(seconds).\(String(repeating: "0", count: 9 - digits.count))\(digits)".utf8)
    }

    /// `length name=value\n`, where the length counts itself.
    static func record(_ name: [UInt8], _ value: [UInt8]) -> [UInt8] {
        let rest = name.count + value.count + 3
        var length = rest + String(rest).utf8.count
        if String(length).utf8.count > String(rest).utf8.count { length = rest + String(length).utf8.count }
        return Array("\(length) ".utf8) + name + [UInt8(ascii: "=")] + value + [UInt8(ascii: "\n")]
    }

    // MARK: - Block

    private func block(letter: UInt8) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: Self.blockBytes)
        func put(_ bytes: some Sequence<UInt8>, at start: Int) {
            for (offset, byte) in bytes.enumerated() { block[start + offset] = byte }
        }
        func put(octal value: Int64, digits: Int, at start: Int) {
            let text = String(value, radix: 8)
            // What does not fit is in a record.
            let fitting = value < 0 || text.utf8.count > digits ? "0" : text
            put((String(repeating: "0", count: digits - fitting.utf8.count) + fitting).utf8, at: start)
        }
        put(path.prefix(100), at: 0)
        put(octal: Int64(mode), digits: 7, at: 100)
        put(octal: Int64(user), digits: 7, at: 108)
        put(octal: Int64(group), digits: 7, at: 116)
        put(octal: bytes, digits: 11, at: 124)
        put(octal: changed.seconds, digits: 11, at: 136)
        put("        ".utf8, at: 148)
        block[156] = letter
        put(link.prefix(100), at: 157)
        put("ustar\u{0}00".utf8, at: 257)
        put(octal: Int64(majorNumber), digits: 7, at: 329)
        put(octal: Int64(minorNumber), digits: 7, at: 337)
        put(octal: block.reduce(0) { $0 + Int64($1) }, digits: 6, at: 148)
        block[154] = 0
        return block
    }
}
