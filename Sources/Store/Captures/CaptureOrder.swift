package import Domain
import Postgres

/// Why a sandbox's files are captured; column `snapshot.purpose`.
package enum CapturePurpose: String, Sendable, Hashable, CaseIterable, Codable {
    /// A snapshot of its owner's, to make other sandboxes from.
    case snapshot
    /// To start the sandbox itself from again.
    case backup
    /// For children that start from what it is now.
    case fork
}

/// Whose files a job captures.
package struct CaptureOrder: Sendable, Hashable {
    package let sandbox: SandboxID
    /// Of the placement that is meant.
    package let epoch: Int64
    package let purpose: CapturePurpose
    /// What the sandbox may hold.
    package let diskGib: Int

    init(_ row: Row) throws {
        sandbox = try row["sandbox_id"]
        epoch = try row["placement_epoch"]
        purpose = try row["purpose"]
        diskGib = try row["disk_gib"]
    }
}

extension RunnerQueries {
    /// Begins, or takes over, a capture of a sandbox that is placed here; nil when there is none. What an owner waits for goes
    /// before backups.
    package func claimCapture(for lease: Duration, mayBeBackup: Bool = true) async throws -> SnapshotJob? {
        try await client.queryFirst("SELECT * FROM claim_capture(\(lease.wholeSeconds), \(mayBeBackup))")
            .map(SnapshotJob.init)
    }

    /// The container that was reported is gone. True if the sandbox starts from its last backup now: its row is another; false if
    /// it has none, or is not placed here under this epoch any more.
    package func restoreLost(_ id: SandboxID, epoch: Int64, container: String) async throws -> Bool {
        try await client.queryFirst("SELECT restore_lost(\(id), \(epoch), \(container)) AS is_restored")
            .map { try $0["is_restored"] } ?? false
    }
}
