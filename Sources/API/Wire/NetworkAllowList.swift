/// The blocks of addresses that a sandbox may reach: at most ten IPv4 blocks in canonical form.
struct NetworkAllowList: Sendable, Equatable {
    static let blockLimit = 10

    /// Separated by commas, as the row and the wire have it; nil when there is none.
    let text: String?

    /// Reads a comma-separated list; answers what is wrong with it, if anything.
    static func parse(_ text: String) -> (list: NetworkAllowList, problems: [String]) {
        let blocks = text.split(separator: ",", omittingEmptySubsequences: false).map { $0.trimmed }
        guard blocks != [""] else { return (NetworkAllowList(text: nil), []) }
        var problems = blocks.compactMap(problem)
        if blocks.count > blockLimit {
            problems.append("networkAllowList has \(blocks.count) blocks; the limit is \(blockLimit)")
        }
        return (NetworkAllowList(text: blocks.joined(separator: ",")), problems)
    }

    private static func problem(_ block: Substring) -> String? {
        let shown = String(block).shortened
        let parts = block.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2 else { return "networkAllowList: '\(shown)' needs a prefix length, such as 10.1.2.3/32" }
        let octets = parts[0].split(separator: ".", omittingEmptySubsequences: false).map {
            canonicalNumber($0, atMost: 255)
        }
        guard octets.count == 4, let prefix = canonicalNumber(parts[1], atMost: 32) else { return notABlock(shown) }
        var address: UInt32 = 0
        for octet in octets {
            guard let octet else { return notABlock(shown) }
            address = address << 8 | octet
        }
        let mask: UInt32 = prefix == 0 ? 0 : ~0 << (32 - prefix)
        guard address & mask == address else {
            let network = (0..<4).map { String((address & mask) >> (24 - 8 * $0) & 255) }.joined(separator: ".")
            return "networkAllowList: '\(shown)' has bits beyond its prefix; the block is \(network)/\(prefix)"
        }
        return nil
    }

    private static func notABlock(_ shown: String) -> String {
        "networkAllowList: '\(shown)' is not an IPv4 block such as 203.0.113.0/24"
    }

    /// Digits without sign or leading zero, so that no later reader can take them otherwise.
    private static func canonicalNumber(_ text: Substring, atMost limit: UInt32) -> UInt32? {
        guard let number = UInt32(text), number <= limit, String(number) == text else { return nil }
        return number
    }
}

extension Substring {
    fileprivate var trimmed: Substring {
        var rest = self
        while rest.first == " " { rest.removeFirst() }
        while rest.last == " " { rest.removeLast() }
        return rest
    }
}
