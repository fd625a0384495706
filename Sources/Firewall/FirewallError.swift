/// What is wrong with a rule set, or with applying it.
package struct FirewallError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The kinds a caller may tell apart.
    package enum Code: String, Sendable, Hashable, CaseIterable {
        case invalidAddress
        case invalidRange
        case tooManyRanges
        case invalidHost
        case invalidSandbox
        /// Two sandboxes claim one slot or address.
        case duplicate
        /// iptables refused; nothing was changed.
        case commandFailed
        case timeout
        /// The kernel holds other rules than those just applied: somebody else changes them too.
        case notConverged
        /// Traffic between ports of a bridge does not meet iptables.
        case bridgeUnfiltered
        /// The output of iptables-save is not understood.
        case unreadable
    }

    package let code: Code
    package let message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    /// Whether the same call may succeed later; `false` where its input is at fault.
    package var isRetryable: Bool {
        switch code {
        case .invalidAddress, .invalidRange, .tooManyRanges, .invalidHost, .invalidSandbox, .duplicate: false
        case .commandFailed, .timeout, .notConverged, .bridgeUnfiltered, .unreadable: true
        }
    }

    package var description: String { "firewall: \(code.rawValue): \(message)" }
}
