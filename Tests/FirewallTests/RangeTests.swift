import Firewall
import Testing

@Suite struct RangeTests {
    @Test(arguments: ["0.0.0.0", "10.0.0.1", "255.255.255.255", "203.0.113.7"])
    func readsAddresses(_ text: String) throws {
        #expect(try IPv4Address(parsing: text).description == text)
    }

    @Test(arguments: [
        "", "1", "1.2.3", "1.2.3.4.5", "1.2.3.", ".1.2.3", "256.1.1.1", "01.2.3.4", "1.2.3.04", "+1.2.3.4", "1.2.3.-4",
        " 1.2.3.4",
        "1.2.3.4 ", "0x1.2.3.4", "1.2.3.1e1", "::1", "１.2.3.4", "1.2.3.4\n", "1..2.3",
    ])
    func refusesOtherAddresses(_ text: String) {
        #expect(throws: FirewallError.self) { try IPv4Address(parsing: text) }
        #expect(throws: FirewallError.self) { try IPv4Range(parsing: text + "/32") }
    }

    @Test func readsRangesAndClearsHostBits() throws {
        #expect(try IPv4Range(parsing: "10.1.2.3/8").description == "10.0.0.0/8")
        #expect(try IPv4Range(parsing: "10.1.2.3/32").description == "10.1.2.3/32")
        #expect(try IPv4Range(parsing: "1.2.3.4/0").description == "0.0.0.0/0")
        #expect(try IPv4Range(parsing: "10.1.2.128/25").last.description == "10.1.2.255")
    }

    @Test(arguments: [
        "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/8/8", "/8", "10.0.0.0/8 ",
        "::/0", "10.0.0.0/255.0.0.0",
    ])
    func refusesOtherRanges(_ text: String) {
        #expect(throws: FirewallError.self) { try IPv4Range(parsing: text) }
    }

    @Test func containsAndOverlaps() throws {
        let ten = try IPv4Range(parsing: "10.0.0.0/8")
        let part = try IPv4Range(parsing: "10.5.0.0/16")
        #expect(ten.contains(part) && !part.contains(ten) && part.overlaps(ten) && ten.overlaps(part))
        #expect(!part.overlaps(try IPv4Range(parsing: "10.6.0.0/16")))
        #expect(part.contains(IPv4Address(10, 5, 255, 255)) && !part.contains(IPv4Address(10, 6, 0, 0)))
    }

    @Test func readsPolicies() throws {
        #expect(try EgressPolicy(blockAll: false, allowList: nil) == .open)
        #expect(try EgressPolicy(blockAll: false, allowList: "") == .open)
        #expect(try EgressPolicy(blockAll: false, allowList: " ") == .open)
        #expect(try EgressPolicy(blockAll: true, allowList: "1.1.1.1/32") == .blockAll)
        let two = try EgressPolicy(blockAll: false, allowList: "1.1.1.1/32, 8.8.0.0/16")
        #expect(two == .allowList([try IPv4Range(parsing: "1.1.1.1/32"), try IPv4Range(parsing: "8.8.0.0/16")]))
        #expect(
            try EgressPolicy(blockAll: false, allowList: "0.0.0.0/0")
                == .allowList([try IPv4Range(parsing: "0.0.0.0/0")])
        )
    }

    @Test func refusesOtherPolicies() {
        let ten = Array(repeating: "1.1.1.1/32", count: 10).joined(separator: ",")
        #expect(throws: Never.self) { try EgressPolicy(blockAll: false, allowList: ten) }
        for text in [
            ten + ",1.1.1.1/32", "1.1.1.1", "1.1.1.1/32,", ",", "1.1.1.1/32;2.2.2.2/32", "example.com", "2001:db8::/32",
        ] {
            #expect(throws: FirewallError.self) { try EgressPolicy(blockAll: false, allowList: text) }
            // A list is read even where it is moot, so that it cannot come to life unread.
            #expect(throws: FirewallError.self) { try EgressPolicy(blockAll: true, allowList: text) }
        }
    }

    @Test func refusesHostsThatWouldOpenTheFloor() throws {
        let subnet = try IPv4Range(parsing: "10.77.0.0/16")
        func host(tag: String = "r1", bridge: String = "mrt0", resolvers: [IPv4Address] = []) throws {
            _ = try HostFirewall(tag: tag, bridge: bridge, subnet: subnet, resolvers: resolvers)
        }
        try host()
        for tag in ["", "R1", "a-b", "123456789", "a b"] { #expect(throws: FirewallError.self) { try host(tag: tag) } }
        for bridge in ["", "br+", "-j", "a b", "a\"b", "0123456789abcdef", "br0 -j ACCEPT"] {
            #expect(throws: FirewallError.self) { try host(bridge: bridge) }
        }
        #expect(throws: FirewallError.self) { try host(resolvers: [IPv4Address(169, 254, 169, 254)]) }
        #expect(throws: FirewallError.self) { try host(resolvers: [IPv4Address(100, 100, 100, 200)]) }
        #expect(throws: FirewallError.self) { try host(resolvers: Array(repeating: IPv4Address(1, 1, 1, 1), count: 4)) }
    }
}
