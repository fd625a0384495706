import Foundation
import Logging
import Testing

@testable import Firewall

/// The real kernel, iptables and packets. Serial: the machine has two cores and silence is measured in time.
@Suite(.serialized, .timeLimit(.minutes(5))) struct KernelTests {
    private let host: HostFirewall
    private let subnet: IPv4Range

    init() throws {
        subnet = try IPv4Range(parsing: "10.77.9.0/24")
        host = try HostFirewall(
            tag: "t1",
            bridge: "mrt0",
            subnet: subnet,
            resolvers: [try IPv4Address(parsing: "10.50.0.5")],
            allowedPrivateRanges: [try IPv4Range(parsing: "172.20.0.0/16")]
        )
    }

    private func box(_ last: UInt8, _ egress: EgressPolicy, epoch: Int64 = 1) -> SandboxFirewall {
        let address = IPv4Address(10, 77, 9, last)
        return SandboxFirewall(slot: Int(last), sandbox: "box-\(last)", epoch: epoch, address: address, egress: egress)
    }

    /// Without rules everything is reachable, or the tests below would prove nothing.
    @Test func control() async throws {
        try await withNetwork { (network) async throws in
            for address in [
                "203.0.113.5", "169.254.169.254", "100.100.100.200", "168.63.129.16", "10.50.0.5", "10.77.9.1",
                "10.77.9.3",
            ] {
                #expect(try await network.comesThrough(address, from: network.boxA), "\(address)")
            }
            #expect(try await network.comesThrough("10.77.9.2", from: network.internet))
        }
    }

    @Test func theFloorHoldsForAnOpenSandbox() async throws {
        try await withNetwork { (network) async throws in
            #expect(try await network.firewall.converge(host: host, sandboxes: [box(2, .open), box(3, .open)]))
            #expect(try await !network.firewall.converge(host: host, sandboxes: [box(2, .open), box(3, .open)]))
            #expect(try await network.comesThrough("203.0.113.5", from: network.boxA))
            #expect(try await network.isAnswered("203.0.113.5", from: network.boxA))
            #expect(try await network.comesThrough("172.20.0.5", from: network.boxA))
            #expect(try await network.comesThrough("10.50.0.5", port: 53, from: network.boxA))
            for address in [
                "169.254.169.254", "100.100.100.200", "168.63.129.16", "10.50.0.5", "10.77.9.1", "203.0.113.1",
                "10.77.9.3",
            ] {
                #expect(try await !network.reaches(address, from: network.boxA), "\(address)")
            }
            #expect(try await !network.pings("10.77.9.1", from: network.boxA))
            #expect(try await !network.pings("10.77.9.3", from: network.boxA))
            #expect(try await !network.reaches("203.0.113.5", port: 25, from: network.boxA))
            #expect(try await !network.reaches("10.77.9.2", from: network.internet))
        }
    }

    @Test func policiesHold() async throws {
        try await withNetwork { (network) async throws in
            let list = EgressPolicy.allowList([
                try IPv4Range(parsing: "198.51.100.0/24"), try IPv4Range(parsing: "169.254.0.0/16"),
            ])
            try await network.firewall.converge(host: host, sandboxes: [box(2, list), box(3, .blockAll)])
            #expect(try await network.comesThrough("198.51.100.9", from: network.boxA))
            #expect(try await network.comesThrough("10.50.0.5", port: 53, from: network.boxA))
            #expect(try await !network.reaches("203.0.113.5", from: network.boxA))
            #expect(try await !network.reaches("169.254.169.254", from: network.boxA))
            for address in ["203.0.113.5", "198.51.100.9", "172.20.0.5"] {
                #expect(try await !network.reaches(address, from: network.boxB), "\(address)")
            }
            #expect(try await !network.reaches("10.50.0.5", port: 53, from: network.boxB))
            // Nothing of the bridge is open to a sandbox that is not in the list.
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open)])
            #expect(try await !network.reaches("203.0.113.5", from: network.boxB))
        }
    }

    @Test func aForgedSourceIsDropped() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .blockAll), box(3, .open)])
            try await network.shell(
                "ip -n \(network.boxA) addr add 10.77.9.77/24 dev eth0; ip -n \(network.boxA) route replace default via 10.77.9.1 src 10.77.9.77"
            )
            #expect(try await !network.reaches("203.0.113.5", from: network.boxA))
            #expect(try await network.comesThrough("203.0.113.5", from: network.boxB))
        }
    }

    /// A neighbour's address, by somebody who may do anything in his own namespace but is on another port of the bridge.
    @Test func aNeighboursAddressIsDropped() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open), box(3, .open)])
            #expect(try await network.comesThrough("203.0.113.5", from: network.boxA), "control")
            try await network.shell("ip -n \(network.boxB) link set eth0 down")
            try await network.shell(
                "ip -n \(network.boxA) addr add 10.77.9.3/24 dev eth0; ip -n \(network.boxA) route replace default via 10.77.9.1 src 10.77.9.3"
            )
            #expect(try await !network.reaches("203.0.113.5", from: network.boxA))
            try await network.shell("ip -n \(network.boxA) route replace default via 10.77.9.1 src 10.77.9.2")
            #expect(try await network.comesThrough("203.0.113.5", from: network.boxA), "control")
        }
    }

    @Test func anAcceptInFilterOpensNothing() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open)])
            try await network.shell(
                "for c in INPUT FORWARD; do ip netns exec \(network.host) iptables -I $c 1 -j ACCEPT; done"
            )
            #expect(try await !network.reaches("169.254.169.254", from: network.boxA))
            #expect(try await !network.reaches("10.77.9.1", from: network.boxA))
            #expect(try await network.comesThrough("203.0.113.5", from: network.boxA))
        }
    }

    @Test func aTightenedPolicyCutsAnOpenConnection() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open)])
            let file = "/tmp/\(network.mark).received"
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    try await network.shell("exec ip netns exec \(network.internet) busybox nc -l -p 8000 > \(file)")
                }
                group.addTask {
                    try await network.shell(
                        "exec ip netns exec \(network.boxA) bash -c 'until exec 3<>/dev/tcp/203.0.113.5/8000; do sleep 0.1; done; while sleep 0.05; do echo tick >&3; done' 2>/dev/null"
                    )
                }
                func size() -> Int { (try? FileManager.default.attributesOfItem(atPath: file)[.size] as? Int) ?? 0 }
                let deadline = ContinuousClock.now + .seconds(60)
                while size() == 0, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(50)) }
                #expect(size() > 0)
                try await network.firewall.converge(host: host, sandboxes: [box(2, .blockAll)])
                try await Task.sleep(for: .seconds(1))  // What had arrived is on its way to the file.
                let before = size()
                try await Task.sleep(for: .milliseconds(600))
                #expect(size() == before)
                group.cancelAll()
            }
            try? FileManager.default.removeItem(atPath: file)
        }
    }

    @Test func ipv6IsClosed() async throws {
        try await withNetwork { (network) async throws in
            let gateway = try await network.shell(
                "ip -n \(network.host) -6 -o addr show dev mrt0 scope link | sed 's/.*inet6 //; s,/.*,,'"
            )
            let address = gateway.trimmingCharacters(in: .whitespacesAndNewlines) + "%eth0"
            try await network.shell(
                "for i in $(seq 50); do ip netns exec \(network.boxA) timeout 1 busybox ping -6 -c 1 -W 1 \(address) >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1"
            )
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open)])
            #expect(try await !network.pings("-6 \(address)", from: network.boxA))
        }
    }

    @Test func tamperingIsHealed() async throws {
        try await withNetwork { (network) async throws in
            let boxes = [box(2, .open), box(3, .blockAll)]
            let inside = "ip netns exec \(network.host) "
            try await network.firewall.converge(host: host, sandboxes: boxes)
            let clean = try await network.shell(inside + "iptables-save -t mangle | grep -v '^[#:]'")
            for damage in [
                "iptables -t mangle -F PREROUTING", "iptables -t mangle -I PREROUTING 1 -i mrt0 -j ACCEPT",
                "iptables -t mangle -F MRT-t1-FLOOR", "iptables -t mangle -I MRT-t1-S3 1 -j RETURN",
                "iptables -t mangle -D FORWARD 1",
                "iptables -t mangle -I MRT-t1-FROM 1 -p tcp -m tcp --dport 22 -j ACCEPT",
                "iptables -t mangle -N MRT-t1-S99", "ip6tables -t mangle -F MRT-t1-FROM",
            ] {
                try await network.shell(inside + damage)
                #expect(try await network.firewall.converge(host: host, sandboxes: boxes), "\(damage)")
                #expect(try await !network.firewall.converge(host: host, sandboxes: boxes), "\(damage)")
                // A foreign rule may stay, behind ours.
                let now = try await network.shell(
                    inside + "iptables-save -t mangle | grep -v '^[#:]' | grep -v -- '-A PREROUTING -i mrt0 -j ACCEPT'"
                )
                #expect(now == clean, "\(damage)")
            }
            #expect(try await !network.reaches("10.77.9.1", from: network.boxA))
        }
    }

    @Test func aRefusedScriptChangesNothing() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open)])
            let inside = "ip netns exec \(network.host) iptables-save -t mangle | grep -v '^[#:]'"
            let before = try await network.shell(inside)
            let bad = [
                "*mangle", ":MRT-t1-S2 - [0:0]", "-A MRT-t1-S2 -j RETURN", "-A MRT-t1-S2 -j NO-SUCH-CHAIN", "COMMIT",
            ]
            do {
                try await network.firewall.apply(FirewallPlan(ipv4Script: bad, ipv6Script: nil))
                Issue.record("a bad rule was accepted")
            } catch let error as FirewallError {
                #expect(error.code == .commandFailed)
                #expect(error.message.contains("-A MRT-t1-S2 -j NO-SUCH-CHAIN"), "\(error)")
            }
            #expect(try await network.shell(inside) == before)
        }
    }

    @Test func removalLeavesNothing() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open), box(3, .blockAll)])
            try await network.firewall.remove(tag: host.tag)
            let left = try await network.shell(
                "ip netns exec \(network.host) bash -c 'iptables-save; ip6tables-save' | grep MRT || true"
            )
            #expect(left == "")
            try await network.firewall.remove(tag: host.tag)
        }
    }

    @Test func stampsAreReadBack() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.converge(host: host, sandboxes: [box(2, .open, epoch: 7), box(3, .blockAll)])
            let seen = try await network.firewall.observe(tag: host.tag).sandboxes(tag: host.tag)
            #expect(seen.map(\.sandbox) == ["box-2", "box-3"])
            #expect(seen.map(\.epoch) == [7, 1])
        }
    }

    @Test func manySandboxesAreOneScript() async throws {
        let wide = try HostFirewall(
            tag: "t1",
            bridge: "mrt0",
            subnet: try IPv4Range(parsing: "10.77.0.0/16"),
            resolvers: host.resolvers
        )
        let ranges = try (1...10).map { try IPv4Range(parsing: "198.51.100.\($0)/32") }
        let boxes = (0..<500).map { index in
            SandboxFirewall(
                slot: index,
                sandbox: "box-\(index)",
                epoch: 1,
                address: IPv4Address(10, 77, UInt8(1 + index / 200), UInt8(1 + index % 200)),
                egress: .allowList(ranges)
            )
        }
        try await withNetwork { (network) async throws in
            let start = ContinuousClock.now
            try await network.firewall.converge(host: wide, sandboxes: boxes)
            let full = ContinuousClock.now
            try await network.firewall.converge(host: wide, sandboxes: Array(boxes.dropLast()))
            let one = ContinuousClock.now
            #expect(try await !network.firewall.converge(host: wide, sandboxes: Array(boxes.dropLast())))
            print(
                "500 sandboxes: install \(full - start), remove one \(one - full), look only \(ContinuousClock.now - one)"
            )
            #expect(ContinuousClock.now - start < .seconds(200))
        }
    }

    @Test func anUnfilteredBridgeIsAnError() async throws {
        try await withNetwork { (network) async throws in
            try await network.firewall.requireBridgeFiltering()
            try await network.shell("ip netns exec \(network.host) sysctl -qw net.bridge.bridge-nf-call-iptables=0")
            await #expect(throws: FirewallError.self) { try await network.firewall.requireBridgeFiltering() }
        }
    }

    @Test func aMissingNamespaceIsAnError() async throws {
        let firewall = KernelFirewall(networkNamespace: "mrtfw-none", logger: .init(label: "test"))
        await #expect(throws: FirewallError.self) { try await firewall.observe(tag: host.tag) }
    }
}
