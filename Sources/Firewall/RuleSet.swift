/// The rules of one runner in one table of one address family, as they should be.
struct RuleSet: Hashable, Sendable {
    /// A jump from a chain of the kernel's into one of ours.
    struct Hook: Hashable, Sendable {
        let builtin: String
        let rule: Rule
    }

    /// In order of rendering: a chain comes after all it leads to.
    var chains: [(name: String, rules: [Rule])]
    var hooks: [Hook]

    static func == (left: RuleSet, right: RuleSet) -> Bool {
        left.hooks == right.hooks && left.chains.map(\.name) == right.chains.map(\.name)
            && left.chains.map(\.rules) == right.chains.map(\.rules)
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(hooks)
        for chain in chains { hasher.combine(chain.rules) }
    }

    /// Names of the chains of a runner.
    struct Names {
        let tag: ChainTag

        /// Everything that comes from the bridge.
        var from: String { tag.prefix + "FROM" }
        /// Everything that goes to the bridge.
        var to: String { tag.prefix + "TO" }
        /// What no policy opens.
        var floor: String { tag.prefix + "FLOOR" }

        func sandbox(_ slot: Int) -> String { tag.prefix + "S\(slot)" }
    }
}

extension RuleSet {
    /// The IPv4 rules: see `README.md` for the order and its reasons.
    static func ipv4(_ host: HostFirewall, _ sandboxes: [SandboxFirewall]) -> RuleSet {
        let names = Names(tag: host.tag)
        let ordered = sandboxes.sorted { $0.slot < $1.slot }
        let dispatch = ordered.map {
            Rule(
                source: $0.source,
                hardwareSource: $0.hardwareAddress,
                comment: $0.stamp(host),
                .goTo(names.sandbox($0.slot))
            )
        }
        return RuleSet(
            chains: [(names.floor, floor(host))]
                + ordered.map { (names.sandbox($0.slot), $0.rules(host)) }
                + [(names.from, dispatch + [Rule(.drop)]), (names.to, [Rule(isReply: true, .pass), Rule(.drop)])],
            hooks: [
                Hook(builtin: "PREROUTING", rule: Rule(inInterface: host.bridge, .jump(names.from))),
                Hook(builtin: "FORWARD", rule: Rule(outInterface: host.bridge, .jump(names.to))),
            ]
        )
    }

    /// The IPv6 rules: nothing comes from the bridge, nothing goes to it.
    static func ipv6(_ host: HostFirewall) -> RuleSet {
        let names = Names(tag: host.tag)
        return RuleSet(
            chains: [(names.from, [Rule(.drop)]), (names.to, [Rule(.drop)])],
            hooks: [
                Hook(builtin: "PREROUTING", rule: Rule(inInterface: host.bridge, .jump(names.from))),
                Hook(builtin: "POSTROUTING", rule: Rule(outInterface: host.bridge, .jump(names.to))),
            ]
        )
    }

    /// Drops first, then what the operator opens, then what is closed by default.
    private static func floor(_ host: HostFirewall) -> [Rule] {
        var rules = Floor.untouchable.map { Rule(destination: $0, .drop) }
        rules.append(Rule(isToHost: true, .drop))
        rules.append(Rule(destination: host.subnet, .drop))
        rules += host.deniedRanges.map { Rule(destination: $0, .drop) }
        if !host.allowsSMTP { rules.append(Rule(port: .init(transport: .tcp, number: 25), .drop)) }
        rules += host.allowedPrivateRanges.map { Rule(destination: $0, .pass) }
        rules += Floor.privateRanges.map { Rule(destination: $0, .drop) }
        return rules
    }
}

extension SandboxFirewall {
    /// The sandbox's own chain. Every packet is judged by its destination alone, never by a connection that exists, so a
    /// tightened policy cuts what is open.
    fileprivate func rules(_ host: HostFirewall) -> [Rule] {
        let toFloor = Rule(.jump(RuleSet.Names(tag: host.tag).floor))
        switch egress {
        case .blockAll:
            return [Rule(.drop)]
        case .open:
            return dns(host) + [toFloor, Rule(.pass)]
        case .allowList(let ranges):
            return dns(host) + [toFloor] + ranges.map { Rule(destination: $0, .pass) } + [Rule(.drop)]
        }
    }

    private func dns(_ host: HostFirewall) -> [Rule] {
        host.resolvers.flatMap { resolver in
            [Rule.Transport.udp, .tcp].map {
                Rule(destination: IPv4Range(resolver), port: .init(transport: $0, number: 53), .pass)
            }
        }
    }

    /// Tells a person, and the next start of the runner, whose chain it is.
    fileprivate func stamp(_ host: HostFirewall) -> String {
        ChainStamp(sandbox: sandbox, epoch: epoch, policyHash: Self.hash(rules(host))).text
    }

    /// FNV-1a of the rendered chain.
    private static func hash(_ rules: [Rule]) -> String {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in rules.map(\.rendered).joined(separator: "\n").utf8 {
            hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        return String(hash, radix: 16)
    }
}

/// The comment on a sandbox's dispatch rule: `martlet <sandbox> e<epoch> p<hash of its chain>`.
struct ChainStamp: Hashable, Sendable {
    let sandbox: String
    let epoch: Int64
    let policyHash: String

    var text: String { "martlet \(sandbox) e\(epoch) p\(policyHash)" }

    init(sandbox: String, epoch: Int64, policyHash: String) {
        self.sandbox = sandbox
        self.epoch = epoch
        self.policyHash = policyHash
    }

    init?(parsing text: String) {
        let words = text.split(separator: " ")
        guard words.count == 4, words[0] == "martlet", words[2].first == "e", words[3].first == "p",
            let epoch = Int64(words[2].dropFirst())
        else { return nil }
        self.init(sandbox: String(words[1]), epoch: epoch, policyHash: String(words[3].dropFirst()))
    }
}
