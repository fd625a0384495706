/// Kinds of packets of version 3 of the protocol (draft-ietf-secsh-filexfer-02).
enum SFTPKind: UInt8 {
    case initialize = 1
    case open = 3
    case close, read, write, lstat, fstat, setstat, fsetstat, openDirectory, readDirectory, remove, makeDirectory
    case removeDirectory, realPath, stat, rename, readLink, symbolicLink
    case extended = 200

    case version = 2
    case status = 101
    case handle, data, name, attributes
    case extendedReply = 201
}

/// Codes of a status packet.
enum SFTPStatus: UInt32 {
    case ok, endOfFile, noSuchFile, permissionDenied, failure, badMessage, noConnection, connectionLost, unsupported
}

/// Why a request was not done.
struct SFTPFailure: Error {
    var status: SFTPStatus
    var message: String

    static let malformed = SFTPFailure(status: .badMessage, message: "malformed packet")

    /// What an errno means to the client.
    static func system(_ number: Int32) -> SFTPFailure {
        let status: SFTPStatus =
            switch number {
            case 1, 13: .permissionDenied  // EPERM, EACCES
            case 2, 20: .noSuchFile  // ENOENT, ENOTDIR
            case 38, 95: .unsupported  // ENOSYS, EOPNOTSUPP
            default: .failure
            }
        return SFTPFailure(status: status, message: describeErrno(number))
    }
}

/// Takes a packet apart. What does not fit is malformed.
struct SFTPReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

    mutating func byte() throws(SFTPFailure) -> UInt8 {
        guard let byte = rest.popFirst() else { throw .malformed }
        return byte
    }

    mutating func number() throws(SFTPFailure) -> UInt32 {
        guard rest.count >= 4 else { throw .malformed }
        defer { rest = rest.dropFirst(4) }
        return rest.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    mutating func longNumber() throws(SFTPFailure) -> UInt64 {
        let high = UInt64(try number())
        return high << 32 | UInt64(try number())
    }

    mutating func bytes() throws(SFTPFailure) -> ArraySlice<UInt8> {
        let count = Int(try number())
        guard rest.count >= count else { throw .malformed }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }

    mutating func string() throws(SFTPFailure) -> String { String(decoding: try bytes(), as: UTF8.self) }
}

/// Puts packets together, one after the other.
struct SFTPWriter {
    private(set) var bytes: [UInt8] = []
    private var start = 0

    /// Bytes that were not taken yet.
    var count: Int { bytes.count - taken }
    private var taken = 0

    /// Bytes to be sent next.
    var next: ArraySlice<UInt8> { bytes[taken...] }

    mutating func take(_ count: Int) {
        taken += count
        if taken == bytes.count {
            bytes.removeAll(keepingCapacity: bytes.capacity <= 2 * SFTPLimit.answerBytes)
            taken = 0
        }
    }

    /// A packet of which `body` writes what comes after its kind.
    mutating func packet(_ kind: SFTPKind, _ body: (inout SFTPWriter) -> Void) {
        let start = bytes.count
        number(0)
        byte(kind.rawValue)
        body(&self)
        let length = UInt32(bytes.count - start - 4)
        for index in 0..<4 { bytes[start + index] = UInt8(truncatingIfNeeded: length >> (24 - 8 * index)) }
    }

    mutating func byte(_ value: UInt8) { bytes.append(value) }

    mutating func number(_ value: UInt32) {
        for shift in [24, 16, 8, 0] { bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(shift))) }
    }

    mutating func longNumber(_ value: UInt64) {
        number(UInt32(truncatingIfNeeded: value >> 32))
        number(UInt32(truncatingIfNeeded: value))
    }

    mutating func string(_ value: some Collection<UInt8>) {
        number(UInt32(value.count))
        bytes.append(contentsOf: value)
    }

    mutating func string(_ value: String) { string(value.utf8) }

    /// A string of which `fill` writes up to `limit` bytes and answers how many, or a negative number.
    mutating func string(upTo limit: Int, _ fill: (UnsafeMutableRawBufferPointer) -> Int) -> Int {
        let start = bytes.count
        number(0)
        bytes.append(contentsOf: repeatElement(0, count: limit))
        let filled = bytes.withUnsafeMutableBytes { all in
            fill(UnsafeMutableRawBufferPointer(rebasing: all[(start + 4)...]))
        }
        bytes.removeLast(limit - max(0, filled))
        for index in 0..<4 { bytes[start + index] = UInt8(truncatingIfNeeded: max(0, filled) >> (24 - 8 * index)) }
        return filled
    }

    /// Takes back what was written since there were so many bytes.
    mutating func rewind(to count: Int) { bytes.removeLast(bytes.count - count) }
}
