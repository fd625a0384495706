import FoundationEssentials
package import Logging
import Subprocess

/// The kernel's rules, read and written with the iptables commands.
///
/// Calls for one tag must not overlap: one reconciler owns them.
package struct KernelFirewall: Sendable {
    private let networkNamespace: String?
    private let commandLimit: Duration
    private let logger: Logger

    /// Works in the network namespace of that name (`ip netns`), or in the process's own.
    package init(networkNamespace: String? = nil, commandLimit: Duration = .seconds(10), logger: Logger) {
        self.networkNamespace = networkNamespace
        self.commandLimit = commandLimit
        self.logger = logger
    }

    /// Reads the rules of the runner `tag`.
    package func observe(tag: ChainTag) async throws -> ObservedFirewall {
        async let ipv4 = observeTable("iptables-save", tag)
        async let ipv6 = observeTable("ip6tables-save", tag)
        return ObservedFirewall(ipv4: try await ipv4, ipv6: try await ipv6)
    }

    private func observeTable(_ command: String, _ tag: ChainTag) async throws -> ObservedTable {
        try ObservedTable(saved: try await run(command, ["-t", "mangle"]), tag: tag)
    }

    /// Reads again only what `plan` changed.
    private func observe(after plan: FirewallPlan, before: ObservedFirewall, tag: ChainTag) async throws
        -> ObservedFirewall
    {
        ObservedFirewall(
            ipv4: plan.ipv4Script == nil ? before.ipv4 : try await observeTable("iptables-save", tag),
            ipv6: plan.ipv6Script == nil ? before.ipv6 : try await observeTable("ip6tables-save", tag)
        )
    }

    /// Applies a plan. Throws `.commandFailed`, naming the refused rule; a refused script changed nothing.
    package func apply(_ plan: FirewallPlan) async throws {
        // IPv6 first: between the two, less is open rather than more.
        if let script = plan.ipv6Script { try await restore("ip6tables-restore", script) }
        if let script = plan.ipv4Script { try await restore("iptables-restore", script) }
    }

    /// Makes the kernel's rules those of `host` and `sandboxes` (all of the runner's), and looks that they are.
    ///
    /// Returns whether anything was changed. Throws `.notConverged` when the kernel differs even then.
    @discardableResult
    package func converge(host: HostFirewall, sandboxes: [SandboxFirewall]) async throws -> Bool {
        let observed = try await observe(tag: host.tag)
        guard let plan = try planFirewall(host: host, sandboxes: sandboxes, observed: observed) else { return false }
        try await apply(plan)
        let after = try await observe(after: plan, before: observed, tag: host.tag)
        if let rest = try planFirewall(host: host, sandboxes: sandboxes, observed: after) {
            let line = (rest.ipv4Script ?? rest.ipv6Script ?? []).dropFirst().first ?? ""
            throw FirewallError(.notConverged, "after applying, this would still be needed: \(line)")
        }
        logger.debug("firewall changed", metadata: ["firewall.sandboxes": "\(sandboxes.count)"])
        return true
    }

    /// Removes all rules and chains of the runner `tag`. Nothing guards its sandboxes afterwards.
    package func remove(tag: ChainTag) async throws {
        if let plan = planRemoval(observed: try await observe(tag: tag)) { try await apply(plan) }
    }

    /// Throws `.bridgeUnfiltered` unless what passes from one port of a bridge to another also meets iptables; without that, two
    /// sandboxes on one bridge reach each other whatever the rules say. Look at the start and now and then: others may change it.
    package func requireBridgeFiltering() async throws {
        for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let path = "/proc/sys/net/bridge/\(setting)"
            let value = await readSetting(path)
            guard value?.first == "1" else {
                throw FirewallError(
                    .bridgeUnfiltered,
                    "\(path) is \(value?.first.map { "\($0)" } ?? "absent"): load br_netfilter and set net.bridge.\(setting)=1"
                )
            }
        }
    }

    /// In the process's own namespace the file is read as it is: this is asked before every application of rules.
    private func readSetting(_ path: String) async -> String? {
        guard networkNamespace == nil else { return try? await run("cat", [path]) }
        return try? String(contentsOfFile: path, encoding: .utf8)
    }

    private func restore(_ command: String, _ script: [String]) async throws {
        do {
            _ = try await run(command, ["--noflush", "-w", "5"], input: script.map { $0 + "\n" }.joined())
        } catch let error as FirewallError where error.code == .commandFailed {
            throw FirewallError(.commandFailed, error.message + Self.refusedLine(error.message, script))
        }
    }

    /// The line that iptables-restore complains of. It names it by number (`line 7 failed`, `at line: 7`), but often that of
    /// COMMIT, where things are looked up; then the line is found by the word it quotes.
    static func refusedLine(_ message: String, _ script: [String]) -> String {
        let quoted = message.split(separator: "'", omittingEmptySubsequences: false).dropFirst().first
        let named = lineNumber(message).flatMap { script.indices.contains($0 - 1) ? script[$0 - 1] : nil }
        if let named, named != "COMMIT" { return " (the line is: \(named))" }
        let line = quoted.flatMap { word in word.isEmpty ? nil : script.first { $0.contains(word) } }
        return line.map { " (the line is: \($0))" } ?? ""
    }

    private static func lineNumber(_ message: String) -> Int? {
        guard let start = message.firstRange(of: "line")?.upperBound else { return nil }
        return Int(message[start...].drop { $0 == ":" || $0 == " " }.prefix { $0.isNumber })
    }

    private func run(_ command: String, _ arguments: [String], input: String = "") async throws -> String {
        let limit = commandLimit
        let words = networkNamespace.map { ["ip", "netns", "exec", $0, command] + arguments } ?? [command] + arguments
        return try await withThrowingTaskGroup(of: String.self) { group in
            group.addTask { try await Self.execute(words, input) }
            group.addTask {
                try await Task.sleep(for: limit)
                throw FirewallError(
                    .timeout,
                    "'\(words.joined(separator: " "))' did not end within \(limit); it was killed"
                )
            }
            defer { group.cancelAll() }
            guard let output = try await group.next() else { throw CancellationError() }
            return output
        }
    }

    private static func execute(_ words: [String], _ input: String) async throws -> String {
        let result = try await Subprocess.run(
            .name(words[0]),
            arguments: Arguments(Array(words.dropFirst())),
            input: .string(input),
            output: .string(limit: outputBytesLimit),
            error: .string(limit: 64 << 10)
        )
        guard result.terminationStatus.isSuccess else {
            let trouble = result.standardError.split(whereSeparator: \.isNewline).joined(separator: "; ")
            throw FirewallError(.commandFailed, "\(words.joined(separator: " ")): \(trouble)")
        }
        return result.standardOutput
    }

    /// A thousand sandboxes with full allow-lists save to about 2 MB.
    private static let outputBytesLimit = 64 << 20
}
