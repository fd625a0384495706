/// What the kernel holds of one runner's rules.
package struct ObservedFirewall: Hashable, Sendable {
    let ipv4: ObservedTable
    let ipv6: ObservedTable

    /// The sandboxes that have a chain, by the stamps on their dispatch rules.
    package func sandboxes(tag: ChainTag) -> [ObservedSandbox] {
        let names = RuleSet.Names(tag: tag)
        let dispatch = ipv4.chains[names.from] ?? []
        return dispatch.compactMap { $0.known }.compactMap { rule in
            guard case .goTo(let chain) = rule.verdict, let slot = Int(chain.dropFirst(names.sandbox(0).count - 1)),
                let stamp = rule.comment.flatMap({ ChainStamp(parsing: $0) }), let source = rule.source
            else { return nil }
            return ObservedSandbox(slot: slot, sandbox: stamp.sandbox, epoch: stamp.epoch, address: source.address)
        }
    }
}

/// A sandbox as its stamp says.
package struct ObservedSandbox: Hashable, Sendable {
    package let slot: Int
    package let sandbox: String
    package let epoch: Int64
    package let address: IPv4Address
}

/// A rule found in the kernel.
enum ObservedRule: Hashable, Sendable {
    case known(Rule)
    /// Not in our vocabulary; the text after `-A chain`.
    case foreign(String)

    var known: Rule? {
        switch self {
        case .known(let rule): rule
        case .foreign: nil
        }
    }
}

/// The part of a table that concerns one runner.
struct ObservedTable: Hashable, Sendable {
    /// A rule in a chain of the kernel's that leads into a chain of this runner.
    struct Hook: Hashable, Sendable {
        let builtin: String
        let rule: ObservedRule
        /// The text after `-A builtin`, for its deletion.
        let text: String
        /// Whether only rules of martlet's (this runner's or another's) stand before it.
        let isFirst: Bool
    }

    /// The runner's own chains.
    private(set) var chains: [String: [ObservedRule]] = [:]
    private(set) var hooks: [Hook] = []

    /// Reads the output of `iptables-save -t <table>`. Throws `.unreadable` when it is none, so that a truncated output
    /// is never taken for an empty table.
    init(saved text: String, tag: ChainTag) throws(FirewallError) {
        var hasCommit = text.allSatisfy(\.isWhitespace)
        var hasForeign: Set<String> = []
        for bytes in text.utf8.split(separator: UInt8(ascii: "\n")) {
            let line = Substring(bytes)
            switch bytes.first {
            case UInt8(ascii: ":"): declare(line, tag)
            case UInt8(ascii: "-"): read(line, tag, &hasForeign)
            case UInt8(ascii: "#"), UInt8(ascii: "*"): break
            case UInt8(ascii: "C") where line == "COMMIT": hasCommit = true
            default: throw FirewallError(.unreadable, "iptables-save printed '\(line.prefix(120))'")
            }
        }
        guard hasCommit else { throw FirewallError(.unreadable, "the output of iptables-save has no end") }
    }

    private mutating func declare(_ line: Substring, _ tag: ChainTag) {
        let name = String(line.dropFirst().prefix { $0 != " " })
        if name.hasPrefix(tag.prefix) { chains[name] = chains[name] ?? [] }
    }

    private mutating func read(_ line: Substring, _ tag: ChainTag, _ hasForeign: inout Set<String>) {
        let words = RuleParser.words(line)
        guard words.count > 2, words[0] == "-A" else { return }
        let chain = words[1]
        let known = RuleParser.rule(words.dropFirst(2))
        let text = String(Substring(line.utf8.dropFirst("-A ".utf8.count + chain.utf8.count + 1)))
        let rule = known.map { ObservedRule.known($0) } ?? .foreign(text)
        if chain.hasPrefix(tag.prefix) {
            chains[chain, default: []].append(rule)
        } else if let target = Self.target(words), target.hasPrefix(tag.prefix) {
            hooks.append(Hook(builtin: chain, rule: rule, text: text, isFirst: !hasForeign.contains(chain)))
        } else if !(Self.target(words)?.hasPrefix(ChainTag.commonPrefix) ?? false) {
            hasForeign.insert(chain)
        }
    }

    private static func target(_ words: [String]) -> String? {
        guard let option = words.lastIndex(where: { $0 == "-j" || $0 == "-g" }), option + 1 < words.count else {
            return nil
        }
        return words[option + 1]
    }
}
