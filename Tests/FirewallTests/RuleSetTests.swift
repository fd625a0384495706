import Testing

@testable import Firewall

@Suite struct RuleSetTests {
    @Test func rulesDoWhatIsPromised() throws {
        var random = RandomFirewalls()
        var passed = 0
        for _ in 0..<400 {
            let (host, sandboxes) = (try random.host(), random.sandboxes())
            let model = PacketModel(rules: .ipv4(host, sandboxes))
            for _ in 0..<100 {
                let packet = random.packet(sandboxes, host)
                let doesPass = model.passes(packet)
                passed += doesPass ? 1 : 0
                #expect(
                    doesPass == promised(packet, host, sandboxes),
                    "\(packet) \(host) \(sandboxes) SEED=\(random.seed)"
                )
            }
        }
        // The generator must reach both sides.
        #expect((1000..<39_000).contains(passed), "\(passed) of 40000 passed, SEED=\(random.seed)")
    }

    /// The floor alone, whatever operator and user configure.
    @Test func nothingOpensTheFloor() throws {
        var random = RandomFirewalls()
        for _ in 0..<400 {
            let (host, sandboxes) = (try random.host(), random.sandboxes())
            let model = PacketModel(rules: .ipv4(host, sandboxes))
            for sandbox in sandboxes {
                for range in Floor.untouchable {
                    for destination in [range.address, range.last] {
                        let packet = Packet(
                            source: sandbox.address,
                            destination: destination,
                            transport: .tcp,
                            port: 80,
                            isToHost: false
                        )
                        #expect(!model.passes(packet), "\(packet) SEED=\(random.seed)")
                    }
                }
                let toHost = Packet(
                    source: sandbox.address,
                    destination: random.address(),
                    transport: .tcp,
                    port: 22,
                    isToHost: true
                )
                #expect(!model.passes(toHost), "\(toHost) SEED=\(random.seed)")
                for other in sandboxes {
                    let packet = Packet(
                        source: sandbox.address,
                        destination: other.address,
                        transport: .udp,
                        port: 80,
                        isToHost: false
                    )
                    #expect(!model.passes(packet), "\(packet) SEED=\(random.seed)")
                }
            }
        }
    }

    @Test func otherInterfacesAreNotTouched() throws {
        var random = RandomFirewalls()
        let (host, sandboxes) = (try random.host(), random.sandboxes())
        let model = PacketModel(rules: .ipv4(host, sandboxes))
        for _ in 0..<200 { #expect(model.passes(random.packet(sandboxes, host), from: "eth0")) }
    }

    /// The table of the design, row by row.
    @Test func truthTable() throws {
        let box = IPv4Address(10, 77, 0, 2)
        func passes(
            _ egress: EgressPolicy,
            _ destination: IPv4Address,
            _ transport: Rule.Transport? = .tcp,
            _ port: UInt16 = 443
        ) throws -> Bool {
            let host = try HostFirewall(
                tag: "t1",
                bridge: "mrt0",
                subnet: RandomFirewalls.subnet,
                resolvers: [IPv4Address(10, 0, 0, 53)],
                allowedPrivateRanges: [try IPv4Range(parsing: "172.20.0.0/16")]
            )
            let sandbox = SandboxFirewall(slot: 2, sandbox: "a", epoch: 1, address: box, egress: egress)
            let packet = Packet(
                source: box,
                destination: destination,
                transport: transport,
                port: port,
                isToHost: false
            )
            return PacketModel(rules: .ipv4(host, [sandbox])).passes(packet)
        }
        let (internet, resolver, allowed, closed) = (
            IPv4Address(203, 0, 113, 7), IPv4Address(10, 0, 0, 53), IPv4Address(172, 20, 0, 1),
            IPv4Address(172, 21, 0, 1)
        )
        let everything = EgressPolicy.allowList([try IPv4Range(parsing: "0.0.0.0/0")])
        let some = EgressPolicy.allowList([
            try IPv4Range(parsing: "203.0.113.0/24"), try IPv4Range(parsing: "172.21.0.0/16"),
        ])
        let rows: [(EgressPolicy, internet: Bool, dns: Bool, allowed: Bool, closed: Bool, elsewhere: Bool)] = [
            (.open, true, true, true, false, true),
            (.blockAll, false, false, false, false, false),
            (everything, true, true, true, false, true),
            (some, true, true, false, false, false),
            (.allowList([]), false, true, false, false, false),
        ]
        for row in rows {
            #expect(try passes(row.0, internet) == row.internet)
            #expect(try passes(row.0, internet, nil) == row.internet)
            #expect(try passes(row.0, resolver, .udp, 53) == row.dns)
            #expect(try passes(row.0, resolver, .tcp, 53) == row.dns)
            #expect(try !passes(row.0, resolver, .tcp, 443))
            #expect(try passes(row.0, allowed) == row.allowed)
            #expect(try passes(row.0, closed) == row.closed)
            #expect(try passes(row.0, IPv4Address(9, 9, 9, 9)) == row.elsewhere)
            #expect(try !passes(row.0, internet, .tcp, 25))
            #expect(try !passes(row.0, IPv4Address(169, 254, 169, 254), .tcp, 80))
            #expect(try !passes(row.0, IPv4Address(169, 254, 169, 254), .udp, 53))
            #expect(try !passes(row.0, IPv4Address(10, 77, 0, 1)))
        }
    }

    @Test func chainNamesFitTheKernel() throws {
        let names = RuleSet.Names(tag: try ChainTag("12345678"))
        for name in [names.from, names.to, names.floor, names.sandbox(65535)] {
            #expect(name.utf8.count <= 28, "\(name)")
        }
    }
}
