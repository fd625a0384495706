/// An Ethernet address.
package struct HardwareAddress: Hashable, Sendable, CustomStringConvertible {
    /// Of 48 bits, in order of writing.
    let rawValue: UInt64

    /// What a sandbox's interface must have: 02:42 (locally administered, and Docker's own habit) and its IPv4 address.
    package init(of address: IPv4Address) {
        rawValue = 0x0242 << 32 | UInt64(address.rawValue)
    }

    /// Reads six pairs of hexadecimal digits with colons between, in either case; nil for anything else.
    init?(parsing text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let bytes = parts.compactMap { $0.utf8.count == 2 ? UInt8($0, radix: 16) : nil }
        guard parts.count == 6, bytes.count == 6 else { return nil }
        rawValue = bytes.reduce(0) { $0 << 8 | UInt64($1) }
    }

    package var description: String {
        (0..<6).reversed().map { index in
            let byte = UInt8(truncatingIfNeeded: rawValue >> (8 * UInt64(index)))
            return (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined(separator: ":")
    }
}
