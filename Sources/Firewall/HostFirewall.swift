/// What holds for all sandboxes of one runner.
package struct HostFirewall: Hashable, Sendable {
    /// Tells this runner's chains from another's on the same host.
    package let tag: ChainTag
    /// The sandboxes' bridge interface.
    package let bridge: String
    /// The bridge's addresses.
    package let subnet: IPv4Range
    /// Where sandboxes may send DNS queries; may be private addresses or the host's own.
    package let resolvers: [IPv4Address]
    /// Private ranges that the operator opens to all sandboxes (whose own policy still applies).
    package let allowedPrivateRanges: [IPv4Range]
    /// Ranges that the operator closes in addition.
    package let deniedRanges: [IPv4Range]
    /// Whether port 25 is open. Closed by default: a mail-sending sandbox ruins the reputation of the host's address.
    package let allowsSMTP: Bool

    /// Throws `.invalidHost`, naming the field.
    package init(
        tag: String,
        bridge: String,
        subnet: IPv4Range,
        resolvers: [IPv4Address],
        allowedPrivateRanges: [IPv4Range] = [],
        deniedRanges: [IPv4Range] = [],
        allowsSMTP: Bool = false
    ) throws(FirewallError) {
        self.tag = try ChainTag(tag)
        self.bridge = bridge
        self.subnet = subnet
        self.resolvers = resolvers
        self.allowedPrivateRanges = allowedPrivateRanges
        self.deniedRanges = deniedRanges
        self.allowsSMTP = allowsSMTP
        try checkBridge()
        try checkResolvers()
        try checkAllowedRanges()
    }

    /// The same rules for another bridge. Throws `.invalidHost`.
    package func guarding(bridge: String, subnet: IPv4Range, tag: String) throws(FirewallError) -> HostFirewall {
        try HostFirewall(
            tag: tag,
            bridge: bridge,
            subnet: subnet,
            resolvers: resolvers,
            allowedPrivateRanges: allowedPrivateRanges,
            deniedRanges: deniedRanges,
            allowsSMTP: allowsSMTP
        )
    }

    private func checkBridge() throws(FirewallError) {
        let isName = bridge.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                true
            // A '+' would be a wildcard to iptables.
            default: false
            }
        }
        guard isName, (1...15).contains(bridge.utf8.count), !bridge.hasPrefix("-") else {
            throw FirewallError(
                .invalidHost,
                "bridge '\(bridge.prefix(40))' is no interface name of 1 to 15 of the characters A-Za-z0-9._-"
            )
        }
    }

    private func checkResolvers() throws(FirewallError) {
        guard resolvers.count <= Self.resolversLimit else {
            throw FirewallError(
                .invalidHost,
                "\(resolvers.count) resolvers given; at most \(Self.resolversLimit) are possible"
            )
        }
        for resolver in resolvers {
            if let range = Floor.untouchable.first(where: { $0.contains(resolver) }) {
                throw FirewallError(
                    .invalidHost,
                    "resolver \(resolver) is in \(range), which sandboxes never reach; run a resolver on the host and name its address"
                )
            }
        }
    }

    private func checkAllowedRanges() throws(FirewallError) {
        guard allowedPrivateRanges.count <= Self.rangesLimit, deniedRanges.count <= Self.rangesLimit else {
            throw FirewallError(.invalidHost, "at most \(Self.rangesLimit) ranges can be allowed, and as many denied")
        }
    }

    /// As many as libc's resolver heeds.
    package static let resolversLimit = 3
    /// Operator's ranges of each sort.
    package static let rangesLimit = 256
}

/// A runner's mark in its chains' names: 1 to 8 lower-case letters and digits.
package struct ChainTag: Hashable, Sendable, CustomStringConvertible {
    package let text: String

    /// Throws `.invalidHost`.
    package init(_ text: String) throws(FirewallError) {
        let isPlain = text.utf8.allSatisfy {
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
        }
        guard isPlain, (1...8).contains(text.utf8.count) else {
            throw FirewallError(.invalidHost, "tag '\(text.prefix(40))' is not 1 to 8 of the characters a-z0-9")
        }
        self.text = text
    }

    package var description: String { text }

    /// What all chains of this runner begin with.
    var prefix: String { "\(Self.commonPrefix)\(text)-" }

    /// What all chains of all runners begin with.
    static let commonPrefix = "MRT-"
}

/// One sandbox in the firewall. It stays in the list until its container is removed.
package struct SandboxFirewall: Hashable, Sendable {
    /// Names its chain; unique on the host while in the list.
    package let slot: Int
    /// The sandbox's id.
    package let sandbox: String
    /// The placement's fencing token.
    package let epoch: Int64
    /// The only source addresses it may use.
    package let source: IPv4Range
    package let egress: EgressPolicy

    package init(slot: Int, sandbox: String, epoch: Int64, address: IPv4Address, egress: EgressPolicy) {
        self.init(slot: slot, sandbox: sandbox, epoch: epoch, source: IPv4Range(address), egress: egress)
    }

    /// One entry for a whole network whose members nobody tells apart: the steps of one build, alone on their bridge.
    package init(slot: Int, network id: String, addresses: IPv4Range, egress: EgressPolicy) {
        self.init(slot: slot, sandbox: id, epoch: 1, source: addresses, egress: egress)
    }

    private init(slot: Int, sandbox: String, epoch: Int64, source: IPv4Range, egress: EgressPolicy) {
        self.slot = slot
        self.sandbox = sandbox
        self.epoch = epoch
        self.source = source
        self.egress = egress
    }

    /// The first of its addresses: of a sandbox, the only one.
    package var address: IPv4Address { source.address }

    /// The only hardware address that a sandbox may use with its address: its interface must be made with this one.
    package var hardwareAddress: HardwareAddress? { source.prefixLength == 32 ? HardwareAddress(of: address) : nil }

    /// Slots are 0…65535.
    package static let slots = 0...65535
}
