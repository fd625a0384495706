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
        let ipv4 = try await run("iptables-save", ["-t", "mangle"])
        let ipv6 = try await run("ip6tables-save", ["-t", "mangle"])
        return ObservedFirewall(
            ipv4: try ObservedTable(saved: ipv4, tag: tag),
            ipv6: try ObservedTable(saved: ipv6, tag: tag)
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
        let after = try await observe(tag: host.tag)
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

    private func restore(_ command: String, _ script: [String]) async throws {
        do {
            _ = try await run(command, ["--noflush", "-w", "5"], input: script.map { $0 + "\n" }.joined())
        } catch let error as FirewallError where error.code == .commandFailed {
            throw FirewallError(.commandFailed, error.message + Self.refusedLine(error.message, script))
        }
    }

    /// iptables-restore names the line by number: `line 7 failed`, or `COMMAND_FAILED at line 7`.
    static func refusedLine(_ message: String, _ script: [String]) -> String {
        guard let start = message.firstRange(of: "line ")?.upperBound else { return "" }
        let number = Int(message[start...].prefix { $0.isNumber }) ?? 0
        return script.indices.contains(number - 1) ? " (the line is: \(script[number - 1]))" : ""
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
