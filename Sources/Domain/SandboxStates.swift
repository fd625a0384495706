/// What is wanted of a sandbox; column `sandbox.desired_state`.
package enum DesiredState: String, Sendable, Hashable, CaseIterable, Codable {
    case started, stopped, archived, destroyed
}

/// What a runner reports of a sandbox; column `sandbox_status.state`.
///
///     creating ⇄ pulling_snapshot → starting → started ⇄ stopping → stopped
///                                              started/stopped ⇄ resizing
///     any → error → any;   any → destroying, which is final
///
/// The database holds the same table (`may_become`); a test compares the two.
package enum ObservedState: String, Sendable, Hashable, CaseIterable, Codable {
    case creating
    case pullingSnapshot = "pulling_snapshot"
    case starting, started, stopping, stopped, resizing, error, destroying

    /// Whether a report of `next` is legal after this state, within one epoch.
    package func mayBecome(_ next: ObservedState) -> Bool {
        if self == next || next == .error || next == .destroying { return true }
        return switch self {
        case .creating: [.pullingSnapshot, .starting, .started, .stopped].contains(next)
        case .pullingSnapshot: [.creating, .starting, .started, .stopped].contains(next)
        case .starting: [.started, .stopping, .stopped, .creating, .pullingSnapshot].contains(next)
        case .started: [.starting, .stopping, .stopped, .resizing, .creating].contains(next)
        case .stopping: [.started, .stopped, .starting].contains(next)
        case .stopped: [.starting, .started, .resizing, .creating, .pullingSnapshot].contains(next)
        case .resizing: [.started, .stopped, .starting, .stopping].contains(next)
        case .error: [.creating, .pullingSnapshot, .starting, .started, .stopping, .stopped].contains(next)
        case .destroying: false
        }
    }

    /// How long the state may last before it becomes an error; nil for states of rest.
    package var deadline: Duration? {
        switch self {
        case .creating, .pullingSnapshot: .seconds(15 * 60)
        case .starting, .stopping, .resizing: .seconds(3 * 60)
        case .started, .stopped, .error, .destroying: nil
        }
    }
}

/// The state the SDK sees (`SandboxState` of the published client), computed by the view `sandbox_view`.
package enum PublicState: String, Sendable, Hashable, CaseIterable, Codable {
    case creating, restoring, destroyed, destroying, started, stopped, starting, stopping, error
    case buildFailed = "build_failed"
    case pendingBuild = "pending_build"
    case buildingSnapshot = "building_snapshot"
    case unknown
    case pullingSnapshot = "pulling_snapshot"
    case archived, archiving, resizing, snapshotting, forking, pausing, paused, resuming
}
