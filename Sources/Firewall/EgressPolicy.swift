/// Where a sandbox may connect to. The floor (`HostFirewall`) comes first and no policy opens it.
package enum EgressPolicy: Hashable, Sendable {
    /// Everything the floor lets through.
    case open
    /// Nothing, not even DNS.
    case blockAll
    /// These ranges and the host's resolvers, as far as the floor lets them through. An empty list allows the resolvers only.
    case allowList([IPv4Range])

    /// Ranges in one list.
    package static let allowListLimit = 10

    /// Reads the public fields. `blockAll` wins; no list, or an empty one, restricts nothing.
    ///
    /// Throws `.invalidRange` or `.tooManyRanges`.
    package init(blockAll: Bool, allowList: String?) throws(FirewallError) {
        let ranges = try Self.ranges(allowList ?? "")
        self = blockAll ? .blockAll : ranges.isEmpty ? .open : .allowList(ranges)
    }

    /// Reads ranges separated by commas; blanks around them are allowed.
    package static func ranges(_ text: String) throws(FirewallError) -> [IPv4Range] {
        guard text.contains(where: { !$0.isWhitespace }) else { return [] }
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        guard parts.count <= allowListLimit else {
            throw FirewallError(
                .tooManyRanges,
                "the allow list has \(parts.count) ranges; at most \(allowListLimit) are possible"
            )
        }
        var ranges: [IPv4Range] = []
        for part in parts { ranges.append(try IPv4Range(parsing: trimmed(part))) }
        return ranges
    }

    private static func trimmed(_ text: Substring) -> Substring {
        let front = text.drop { $0 == " " }
        guard let end = front.lastIndex(where: { $0 != " " }) else { return front }
        return front[...end]
    }
}
