import Domain

/// What a client is told before its connection is closed. OpenSSH shows 400 characters of it.
enum Farewell {
    static let revoked = "this access was revoked or has expired; create a new one"
    static let expired = "this access has expired; create a new one"
    static let moved = "the sandbox was moved to another host, and starts anew there; connect again"
    static let lost = "the connection to the sandbox was lost; connect again"
    static let shutdown = "the gateway is shutting down; connect again in a moment"
    static let database = "the gateway cannot check tokens at the moment; try again in a moment"
    static let refused = "too many tokens that are not valid; create a new access, and wait a minute"
    static let broken = "the gateway could not pass on what was sent; connect again"
    static let flood = "more was sent than the other side takes"
    static let slow = "no valid token was given in time"

    static func unreachable(_ sandbox: SandboxID) -> String {
        "the SSH server of sandbox \(sandbox) did not answer in time; try again"
    }

    static func tooMany(_ sandbox: SandboxID, limit: Int) -> String {
        "sandbox \(sandbox) has \(limit) SSH connections, which is the limit; close one"
    }

    static func dead(_ side: String, after time: Duration) -> String {
        "\(side) gave no sign of life for \(time.components.seconds) s"
    }

    /// Why a sandbox in this state cannot be entered, and what to do; nil where it can.
    static func reason(_ sandbox: SandboxID, is state: PublicState) -> String? {
        switch state {
        case .started: nil
        case .stopped: "sandbox \(sandbox) is stopped; start it, then connect again"
        case .paused, .archived: "sandbox \(sandbox) is \(state.rawValue); start it, then connect again"
        case .stopping, .pausing, .archiving:
            "sandbox \(sandbox) is \(state.rawValue); start it when that is done, then connect again"
        case .creating, .restoring, .starting, .pendingBuild, .buildingSnapshot, .pullingSnapshot, .resizing,
            .snapshotting,
            .forking, .resuming:
            "sandbox \(sandbox) is \(state.rawValue); wait until it is started, then connect again"
        case .error, .buildFailed:
            "sandbox \(sandbox) has failed (\(state.rawValue)); its errorReason says why; recover it or create another"
        case .destroying, .destroyed: "sandbox \(sandbox) was deleted; create another"
        case .unknown: "the runner of sandbox \(sandbox) cannot be reached; try again in a minute"
        }
    }

    /// The same for a session that is open. Whether a runner can be reached changes nothing for it: it goes on while it does.
    static func reasonToEnd(_ sandbox: SandboxID, is state: PublicState) -> String? {
        state == .unknown ? nil : reason(sandbox, is: state)
    }
}
