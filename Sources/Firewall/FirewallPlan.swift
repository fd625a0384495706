/// What to feed to iptables-restore. Each script is applied as a whole or not at all.
package struct FirewallPlan: Hashable, Sendable {
    /// Lines for `iptables-restore --noflush`; nil when nothing differs.
    package let ipv4Script: [String]?
    /// Lines for `ip6tables-restore --noflush`; nil when nothing differs.
    package let ipv6Script: [String]?
}

/// What makes the kernel's rules those of `host` and `sandboxes`; nil when they are. Pure.
///
/// `sandboxes` are all sandboxes of the runner: chains of others are removed. Throws `.duplicate` or `.invalidSandbox`.
package func planFirewall(
    host: HostFirewall,
    sandboxes: [SandboxFirewall],
    observed: ObservedFirewall
) throws(FirewallError) -> FirewallPlan? {
    try check(sandboxes, host)
    let ipv4 = planTable(desired: .ipv4(host, sandboxes), observed: observed.ipv4)
    let ipv6 = planTable(desired: .ipv6(host), observed: observed.ipv6)
    return ipv4 == nil && ipv6 == nil ? nil : FirewallPlan(ipv4Script: ipv4, ipv6Script: ipv6)
}

/// What removes every rule of a runner; nil when there is none. Pure.
package func planRemoval(observed: ObservedFirewall) -> FirewallPlan? {
    let nothing = RuleSet(chains: [], hooks: [])
    let ipv4 = planTable(desired: nothing, observed: observed.ipv4)
    let ipv6 = planTable(desired: nothing, observed: observed.ipv6)
    return ipv4 == nil && ipv6 == nil ? nil : FirewallPlan(ipv4Script: ipv4, ipv6Script: ipv6)
}

private func check(_ sandboxes: [SandboxFirewall], _ host: HostFirewall) throws(FirewallError) {
    var slots: [Int: String] = [:]
    var addresses: [IPv4Address: String] = [:]
    for sandbox in sandboxes {
        guard SandboxFirewall.slots.contains(sandbox.slot), host.subnet.contains(sandbox.address),
            isPlain(sandbox.sandbox)
        else {
            throw FirewallError(
                .invalidSandbox,
                "sandbox '\(sandbox.sandbox.prefix(64))' at \(sandbox.address), slot \(sandbox.slot): it must have an id of letters, digits and '-', an address in \(host.subnet) and a slot in \(SandboxFirewall.slots)"
            )
        }
        if let other = slots.updateValue(sandbox.sandbox, forKey: sandbox.slot) {
            throw FirewallError(.duplicate, "slot \(sandbox.slot) is claimed by \(other) and \(sandbox.sandbox)")
        }
        if let other = addresses.updateValue(sandbox.sandbox, forKey: sandbox.address) {
            throw FirewallError(.duplicate, "address \(sandbox.address) is claimed by \(other) and \(sandbox.sandbox)")
        }
    }
}

/// The id goes into a comment of the script, so nothing in it may end the comment.
private func isPlain(_ id: String) -> Bool {
    (1...64).contains(id.utf8.count)
        && id.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"):
                true
            default: false
            }
        }
}

/// The order matters inside one script: flush what changes, fill it, hook it up, then delete what nothing leads to any more.
func planTable(desired: RuleSet, observed: ObservedTable) -> [String]? {
    let changed = desired.chains.filter { observed.chains[$0.name] != $0.rules.map { .known($0) } }
    let surplus = Set(observed.chains.keys).subtracting(desired.chains.map(\.name)).sorted()
    let hooks = planHooks(desired: desired.hooks, observed: observed.hooks)
    guard !changed.isEmpty || !surplus.isEmpty || !hooks.isEmpty else { return nil }
    // Naming a chain this way creates it, or empties it.
    let declarations = (changed.map(\.name) + surplus).map { ":\($0) - [0:0]" }
    let rules = changed.flatMap { chain in chain.rules.map { "-A \(chain.name) \($0.rendered)" } }
    return ["*mangle"] + declarations + rules + hooks + surplus.map { "-X \($0)" } + ["COMMIT"]
}

/// Every hook exactly once, with nothing but martlet's own rules before it.
private func planHooks(desired: [RuleSet.Hook], observed: [ObservedTable.Hook]) -> [String] {
    var lines: [String] = []
    var unexplained = observed
    for hook in desired {
        let mine = unexplained.filter { $0.builtin == hook.builtin && $0.rule == .known(hook.rule) }
        guard mine.count != 1 || !mine[0].isFirst else {
            unexplained.removeAll { $0 == mine[0] }
            continue
        }
        lines.append("-I \(hook.builtin) 1 \(hook.rule.rendered)")
    }
    // Deleting by text removes the first that matches; the new ones stand first and must stay, so deletions go before.
    return unexplained.map { "-D \($0.builtin) \($0.text)" } + lines
}
