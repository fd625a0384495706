/// How a snapshot stands; column `snapshot.state`, and `SnapshotState` of the published client.
///
///     pending → pulling | building → active ⇄ inactive
///     any of the work → error | build_failed → pending, when it is tried again
package enum SnapshotState: String, Sendable, Hashable, CaseIterable, Codable {
    case building, pending, pulling, snapshotting, active, inactive, error
    case buildFailed = "build_failed"
    case removing

    /// Whether a runner has it in hand, or is waited for.
    package var isUnderWay: Bool {
        switch self {
        case .building, .pending, .pulling, .snapshotting: true
        case .active, .inactive, .error, .buildFailed, .removing: false
        }
    }
}

/// What is to be done for a snapshot; column `snapshot_job.kind`.
package enum SnapshotJobKind: String, Sendable, Hashable, CaseIterable, Codable { case pull, build, capture }

/// Whose a job's failure is; column `snapshot_job.failing`. Those of one cause in a row are counted, so that none uses up the tries
/// of another.
package enum SnapshotFailureCause: String, Sendable, Hashable, CaseIterable, Codable {
    /// The engine's, or the internal registry's.
    case ours
    /// This runner's disk is full.
    case disk
    /// A name, a login, a registry or a definition of the user's.
    case theirs
}
