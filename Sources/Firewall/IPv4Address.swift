/// An IPv4 address.
package struct IPv4Address: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// In host order: 10.0.0.1 is 0x0A000001.
    package let rawValue: UInt32

    package init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    package init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
        rawValue = UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d)
    }

    /// Reads four decimal octets without leading zeros, signs or blanks; `010.0.0.1` means different things to different
    /// programs and is refused. Throws `.invalidAddress`.
    package init(parsing text: some StringProtocol) throws(FirewallError) {
        let parts = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let octets = parts.compactMap { canonicalNumber($0, limit: 255) }
        guard parts.count == 4, octets.count == 4 else {
            throw FirewallError(
                .invalidAddress,
                "'\(text.prefix(60))' is no IPv4 address; write four numbers of 0 to 255, as 203.0.113.7"
            )
        }
        rawValue = octets.reduce(0) { $0 << 8 | UInt32($1) }
    }

    package static func < (left: IPv4Address, right: IPv4Address) -> Bool { left.rawValue < right.rawValue }

    package var description: String {
        "\(rawValue >> 24).\(rawValue >> 16 & 255).\(rawValue >> 8 & 255).\(rawValue & 255)"
    }
}

/// A range of IPv4 addresses in CIDR notation. Bits beyond the prefix are always zero.
package struct IPv4Range: Hashable, Sendable, CustomStringConvertible {
    package let address: IPv4Address
    /// 0…32.
    package let prefixLength: Int

    /// The range of `prefixLength` that holds `address`. `prefixLength` must be in 0…32.
    package init(_ address: IPv4Address, prefixLength: Int) {
        precondition((0...32).contains(prefixLength), "prefix length \(prefixLength)")
        self.prefixLength = prefixLength
        self.address = IPv4Address(rawValue: address.rawValue & Self.mask(prefixLength))
    }

    /// The range of one address.
    package init(_ address: IPv4Address) {
        self.init(address, prefixLength: 32)
    }

    /// Reads `address/prefix`; the prefix is mandatory and canonical. Host bits are cleared, as the kernel does.
    /// Throws `.invalidRange`.
    package init(parsing text: some StringProtocol) throws(FirewallError) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let length = canonicalNumber(parts[1].utf8, limit: 32) else {
            throw FirewallError(
                .invalidRange,
                "'\(text.prefix(60))' is no IPv4 range; write address/prefix with a prefix of 0 to 32, as 203.0.113.0/24"
            )
        }
        do {
            self.init(try IPv4Address(parsing: parts[0]), prefixLength: length)
        } catch {
            throw FirewallError(.invalidRange, "'\(text.prefix(60))' is no IPv4 range: \(error.message)")
        }
    }

    /// Whether `address` is in the range.
    package func contains(_ address: IPv4Address) -> Bool {
        address.rawValue & Self.mask(prefixLength) == self.address.rawValue
    }

    /// Whether all of `other` is in the range.
    package func contains(_ other: IPv4Range) -> Bool {
        other.prefixLength >= prefixLength && contains(other.address)
    }

    /// Whether any address is in both.
    package func overlaps(_ other: IPv4Range) -> Bool {
        contains(other) || other.contains(self)
    }

    /// The last address of the range.
    package var last: IPv4Address { IPv4Address(rawValue: address.rawValue | ~Self.mask(prefixLength)) }

    package var description: String { "\(address)/\(prefixLength)" }

    private static func mask(_ length: Int) -> UInt32 {
        length == 0 ? 0 : ~UInt32(0) << UInt32(32 - length)
    }
}

/// Reads a decimal number without sign, blank or leading zero.
private func canonicalNumber(_ digits: some Collection<UInt8>, limit: Int) -> Int? {
    guard (1...3).contains(digits.count), digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
    else { return nil }
    guard digits.count == 1 || digits.first != UInt8(ascii: "0") else { return nil }
    let value = digits.reduce(0) { $0 * 10 + Int($1 - UInt8(ascii: "0")) }
    return value <= limit ? value : nil
}
