package import Domain
import Postgres

/// What a runner writes of a sandbox. A nil leaves the column as it is.
package struct SandboxReport: Sendable, Hashable {
    package var state: ObservedState
    /// For `error` only.
    package var errorReason: String?
    /// For `error` only: whether starting again may help.
    package var recoverable = false
    /// The generation that the sandbox now equals, or failed under.
    package var generation: Int64?
    package var containerID: String?
    package var daemonVersion: String?
    package var effective: EffectiveLimits?
    /// A new run began: `started_at` becomes the database's now.
    package var beginsRun = false

    package init(_ state: ObservedState) { self.state = state }
}

extension SandboxReport {
    /// Touches a row only while the asker holds the sandbox under `epoch`. A transitional state keeps the deadline it got when
    /// it began, so that repeating the report does not put it off.
    func statement(for sandbox: SandboxID, epoch: Int64) -> SQL {
        """
        UPDATE sandbox_status SET
            error_reason = \(errorReason),
            recoverable = \(recoverable),
            timed_out = false,
            observed_generation = coalesce(\(generation), observed_generation),
            container_id = coalesce(\(containerID), container_id),
            daemon_version = coalesce(\(daemonVersion), daemon_version),
            effective = coalesce(\(effective.map { JSON($0) }), effective),
            started_at = CASE WHEN \(beginsRun) THEN now() ELSE started_at END,
            deadline_at = CASE WHEN state = \(state) AND deadline_at IS NOT NULL THEN deadline_at
                               ELSE now() + \(state.deadline)::interval END,
            state = \(state)
        WHERE sandbox_id = \(sandbox) AND epoch = \(epoch)
        """
    }
}
