import FoundationEssentials

@testable import Firewall

/// Random but reproducible firewalls and packets, biased to the borders that matter.
struct RandomFirewalls {
    let seed: UInt64
    private var random: SplitMix

    /// Takes the seed from `SEED`, or at random; failures must print it.
    init() {
        seed = ProcessInfo.processInfo.environment["SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0...UInt64.max)
        random = SplitMix(state: seed)
    }

    static let subnet = IPv4Range(IPv4Address(10, 77, 0, 0), prefixLength: 16)

    private static let landmarks: [IPv4Address] = [
        IPv4Address(169, 254, 169, 254), IPv4Address(169, 254, 0, 1), IPv4Address(100, 100, 100, 200),
        IPv4Address(100, 100, 100, 201),
        IPv4Address(168, 63, 129, 16), IPv4Address(168, 63, 129, 17), IPv4Address(10, 77, 0, 1),
        IPv4Address(10, 77, 0, 7),
        IPv4Address(10, 77, 255, 255), IPv4Address(10, 76, 0, 1), IPv4Address(10, 0, 0, 53), IPv4Address(172, 16, 0, 1),
        IPv4Address(172, 31, 255, 255), IPv4Address(172, 32, 0, 0), IPv4Address(192, 168, 1, 1),
        IPv4Address(127, 0, 0, 1),
        IPv4Address(224, 0, 0, 251), IPv4Address(255, 255, 255, 255), IPv4Address(0, 0, 0, 0), IPv4Address(1, 1, 1, 1),
        IPv4Address(8, 8, 8, 8), IPv4Address(203, 0, 113, 7), IPv4Address(198, 18, 0, 1), IPv4Address(100, 64, 0, 1),
    ]

    mutating func address() -> IPv4Address {
        if Int.random(in: 0..<4, using: &random) == 0 {
            return IPv4Address(rawValue: UInt32.random(in: 0...UInt32.max, using: &random))
        }
        return Self.landmarks.randomElement(using: &random) ?? IPv4Address(1, 1, 1, 1)
    }

    mutating func range() -> IPv4Range {
        let length = [0, 1, 8, 10, 12, 16, 24, 31, 32].randomElement(using: &random) ?? 32
        return IPv4Range(address(), prefixLength: length)
    }

    private mutating func ranges(_ limit: Int) -> [IPv4Range] {
        (0..<Int.random(in: 0...limit, using: &random)).map { _ in range() }
    }

    mutating func host() throws -> HostFirewall {
        let resolvers = (0..<Int.random(in: 0...3, using: &random)).map { _ in address() }
            .filter { address in !Floor.untouchable.contains { $0.contains(address) } }
        return try HostFirewall(
            tag: "t1",
            bridge: "mrt0",
            subnet: Self.subnet,
            resolvers: resolvers,
            allowedPrivateRanges: ranges(2),
            deniedRanges: Int.random(in: 0..<3, using: &random) == 0 ? ranges(2) : [],
            allowsSMTP: Bool.random(using: &random)
        )
    }

    mutating func sandboxes() -> [SandboxFirewall] {
        let slots = Set(
            (0..<Int.random(in: 0...6, using: &random)).map { _ in Int.random(in: 2...250, using: &random) }
        )
        return slots.sorted().map { slot in
            SandboxFirewall(
                slot: slot,
                sandbox: "box-\(slot)",
                epoch: Int64.random(in: 0...99, using: &random),
                address: IPv4Address(10, 77, 0, UInt8(slot)),
                egress: policy()
            )
        }
    }

    private mutating func policy() -> EgressPolicy {
        switch Int.random(in: 0..<3, using: &random) {
        case 0: .open
        case 1: .blockAll
        default: .allowList(ranges(10))
        }
    }

    mutating func packet(_ sandboxes: [SandboxFirewall], _ host: HostFirewall) -> Packet {
        let live = sandboxes.randomElement(using: &random)?.address
        let source = Int.random(in: 0..<8, using: &random) == 0 ? address() : live ?? address()
        let resolver = Int.random(in: 0..<6, using: &random) == 0 ? host.resolvers.randomElement(using: &random) : nil
        var packet = Packet(
            source: source,
            destination: resolver ?? address(),
            transport: [.tcp, .udp, nil].randomElement(using: &random) ?? nil,
            port: [25, 53, 80, 443].randomElement(using: &random) ?? 80,
            isToHost: Int.random(in: 0..<5, using: &random) == 0
        )
        if Int.random(in: 0..<8, using: &random) == 0 {
            packet.hardwareSource = sandboxes.randomElement(using: &random)?.hardwareAddress
        }
        return packet
    }
}

/// A small seeded generator.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }
}
