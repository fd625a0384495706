import Firewall
import FoundationEssentials
import Logging
import Subprocess

/// A small real network: a host with a bridge, two sandboxes on it, and an Internet behind the host.
///
///     box a 10.77.9.2 ─┐
///                      ├─ mrt0 10.77.9.1 (host, forwards) up0 ─── internet: 203.0.113.5, 169.254.169.254, 10.50.0.5, …
///     box b 10.77.9.3 ─┘
///
/// Each lives in a network namespace of its own, so neither this machine's rules nor other tests are touched.
struct NetworkForTests {
    let mark = "mrtfw-\(UUID().uuidString.lowercased().prefix(8))"
    var host: String { mark + "-h" }
    var internet: String { mark + "-i" }
    var boxA: String { mark + "-a" }
    var boxB: String { mark + "-b" }

    var firewall: KernelFirewall { KernelFirewall(networkNamespace: host, logger: Logger(label: "test")) }

    fileprivate func build() async throws {
        try await shell(
            """
            set -e
            for n in \(host) \(internet) \(boxA) \(boxB); do ip netns add $n; ip -n $n link set lo up; done
            ip -n \(host) link add mrt0 type bridge
            ip -n \(host) addr add 10.77.9.1/24 dev mrt0
            ip -n \(host) link set mrt0 up
            ip netns exec \(host) sysctl -qw net.ipv4.ip_forward=1
            ip netns exec \(host) sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
            ip -n \(host) link add up0 type veth peer name up0 netns \(internet)
            ip -n \(host) addr add 203.0.113.1/24 dev up0; ip -n \(host) link set up0 up; ip -n \(internet) link set up0 up
            for a in 203.0.113.5/24 169.254.169.254/32 100.100.100.200/32 168.63.129.16/32 10.50.0.5/32 172.20.0.5/32 198.51.100.9/32; do
              ip -n \(internet) addr add $a dev up0
            done
            ip -n \(internet) route add default via 203.0.113.1
            ip -n \(host) route add default via 203.0.113.5
            i=2
            for n in \(boxA) \(boxB); do
              ip -n \(host) link add v$i type veth peer name eth0 netns $n
              ip -n \(host) link set v$i master mrt0 up
              ip -n $n link set eth0 address 02:42:0a:4d:09:0$i
              ip -n $n addr add 10.77.9.$i/24 dev eth0; ip -n $n link set eth0 up
              ip -n $n route add default via 10.77.9.1
              i=$((i+1))
            done
            """
        )
    }

    fileprivate func demolish() async throws {
        try await shell("for n in \(host) \(internet) \(boxA) \(boxB); do ip netns del $n 2>/dev/null || true; done")
    }

    /// Whether a TCP connection from `namespace` gets any answer; a refusal is one, silence is none.
    func reaches(_ destination: String, port: Int = 80, from namespace: String) async throws -> Bool {
        try await succeeds(
            """
            ip netns exec \(namespace) timeout 0.7 bash -c 'exec 3<>/dev/tcp/\(destination)/\(port)'
            test $? -ne 124
            """
        )
    }

    /// For what must be answered: a busy machine may need more than the moment that tells silence.
    func comesThrough(_ destination: String, port: Int = 80, from namespace: String) async throws -> Bool {
        try await soon { try await reaches(destination, port: port, from: namespace) }
    }

    func isAnswered(_ destination: String, from namespace: String) async throws -> Bool {
        try await soon { try await pings(destination, from: namespace) }
    }

    private func soon(_ isSo: () async throws -> Bool) async throws -> Bool {
        for _ in 0..<20 { if try await isSo() { return true } }
        return false
    }

    /// Whether a ping gets an answer.
    func pings(_ destination: String, from namespace: String) async throws -> Bool {
        try await succeeds("ip netns exec \(namespace) timeout 1 busybox ping -c 1 -W 1 \(destination)")
    }

    /// Runs a script and throws if it fails; returns what it prints.
    @discardableResult
    func shell(_ script: String) async throws -> String {
        let result = try await run(
            .name("bash"),
            arguments: ["-c", script],
            output: .string(limit: 1 << 20),
            error: .string(limit: 1 << 20)
        )
        guard result.terminationStatus.isSuccess else {
            throw ScriptFailure(script: script, output: result.standardError)
        }
        return result.standardOutput
    }

    private func succeeds(_ script: String) async throws -> Bool {
        let result = try await run(.name("bash"), arguments: ["-c", script], output: .discarded, error: .discarded)
        return result.terminationStatus.isSuccess
    }

    struct ScriptFailure: Error {
        let script: String
        let output: String
    }
}

/// Builds the network, runs `body` in it and takes it away again. Needs root and iptables: without, it fails.
func withNetwork(_ body: (NetworkForTests) async throws -> Void) async throws {
    let network = NetworkForTests()
    let result: Result<Void, any Error>
    do {
        try await network.build()
        result = .success(try await body(network))
    } catch {
        result = .failure(error)
    }
    try await network.demolish()
    try result.get()
}
