@testable import Firewall

/// A packet on its way from the bridge.
struct Packet: Hashable, CustomStringConvertible {
    var source: IPv4Address
    var destination: IPv4Address
    /// nil: ICMP or anything else without ports.
    var transport: Rule.Transport?
    var port: UInt16
    var isToHost: Bool
    /// Nil: that of the sandbox whose address is the source.
    var hardwareSource: HardwareAddress?

    var description: String {
        "\(source) -> \(destination) \(transport.map { "\($0.rawValue)/\(port)" } ?? "icmp")\(isToHost ? " (to the host)" : "")"
    }
}

/// What the kernel does with rules, as far as ours go: chains, goto, and the return to the caller.
struct PacketModel {
    let rules: RuleSet

    /// Whether PREROUTING lets a packet from `interface` through.
    func passes(_ packet: Packet, from interface: String = "mrt0") -> Bool {
        let hooks = rules.hooks.filter { $0.builtin == "PREROUTING" }.map(\.rule)
        return walk(hooks, packet, interface) != .dropped
    }

    private enum Walk { case dropped, returned }

    private func walk(_ chain: [Rule], _ packet: Packet, _ interface: String) -> Walk {
        for rule in chain where matches(rule, packet, interface) {
            switch rule.verdict {
            case .drop: return .dropped
            case .pass: return .returned
            case .jump(let name): if walk(named(name), packet, interface) == .dropped { return .dropped }
            case .goTo(let name): return walk(named(name), packet, interface)
            }
        }
        return .returned
    }

    private func named(_ name: String) -> [Rule] { rules.chains.first { $0.name == name }?.rules ?? [] }

    private func matches(_ rule: Rule, _ packet: Packet, _ interface: String) -> Bool {
        (rule.source?.contains(packet.source) ?? true)
            && (rule.hardwareSource.map { $0 == packet.hardwareSource ?? HardwareAddress(of: packet.source) } ?? true)
            && (rule.destination?.contains(packet.destination) ?? true)
            && (rule.inInterface.map { $0 == interface } ?? true)
            && rule.outInterface == nil
            && (rule.port.map { $0.transport == packet.transport && $0.number == packet.port } ?? true)
            && (!rule.isToHost || packet.isToHost)
            && !rule.isReply
    }
}

/// What the design promises, said a second time and without chains.
func promised(_ packet: Packet, _ host: HostFirewall, _ sandboxes: [SandboxFirewall]) -> Bool {
    guard let sandbox = sandboxes.first(where: { $0.address == packet.source }) else { return false }
    if let used = packet.hardwareSource, used != HardwareAddress(of: packet.source) { return false }
    if sandbox.egress == .blockAll { return false }
    if packet.port == 53, packet.transport != nil, host.resolvers.contains(packet.destination) { return true }
    func isIn(_ ranges: [IPv4Range]) -> Bool { ranges.contains { $0.contains(packet.destination) } }
    if isIn(Floor.untouchable) || packet.isToHost || isIn([host.subnet]) || isIn(host.deniedRanges) { return false }
    if packet.port == 25, packet.transport == .tcp, !host.allowsSMTP { return false }
    if isIn(Floor.privateRanges), !isIn(host.allowedPrivateRanges) { return false }
    switch sandbox.egress {
    case .open: return true
    case .blockAll: return false
    case .allowList(let ranges): return isIn(ranges)
    }
}
