/// Packets of the connection protocol (RFC 4254) that the gateway itself looks at or makes.
enum PacketType {
    static let disconnect: UInt8 = 1
    static let globalRequest: UInt8 = 80
    static let requestSuccess: UInt8 = 81
    static let requestFailure: UInt8 = 82
    static let channelOpen: UInt8 = 90
    static let channelOpenFailure: UInt8 = 92
    static let channelClose: UInt8 = 97
    /// Messages about channels, from the opening to a request's failure.
    static let channels: ClosedRange<UInt8> = 90...100
}

/// Reads fields of a packet; nil beyond its end.
struct PacketReader {
    private var rest: UnsafeRawBufferPointer.SubSequence

    init(_ bytes: UnsafeRawBufferPointer) { rest = bytes[...] }

    mutating func number() -> UInt32? {
        guard rest.count >= 4 else { return nil }
        defer { rest = rest.dropFirst(4) }
        return rest.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    mutating func boolean() -> Bool? { rest.popFirst().map { $0 != 0 } }

    mutating func skipString() -> Bool {
        guard let length = number(), length <= rest.count else { return false }
        rest = rest.dropFirst(Int(length))
        return true
    }
}

/// Puts a packet together.
struct PacketWriter {
    let type: UInt8
    private(set) var bytes: [UInt8] = []

    init(_ type: UInt8) { self.type = type }

    mutating func add(_ number: UInt32) { withUnsafeBytes(of: number.bigEndian) { bytes += $0 } }

    mutating func add(_ text: String) {
        add(UInt32(text.utf8.count))
        bytes += text.utf8
    }

    mutating func add(_ flag: Bool) { bytes.append(flag ? 1 : 0) }

    /// SSH_MSG_DISCONNECT, "by application".
    static func disconnect(_ reason: String) -> PacketWriter {
        var packet = PacketWriter(PacketType.disconnect)
        packet.add(11)
        packet.add(reason)
        packet.add("")
        return packet
    }

    /// A request that everybody answers, if only with a refusal.
    static var keepAlive: PacketWriter {
        var packet = PacketWriter(PacketType.globalRequest)
        packet.add("keepalive@openssh.com")
        packet.add(true)
        return packet
    }

    /// SSH_MSG_CHANNEL_OPEN_FAILURE, "resource shortage".
    static func noRoom(for channel: UInt32, limit: Int) -> PacketWriter {
        var packet = PacketWriter(PacketType.channelOpenFailure)
        packet.add(channel)
        packet.add(4)
        packet.add("the connection has \(limit) channels, which is the limit; close one")
        packet.add("")
        return packet
    }
}
