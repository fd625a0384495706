package import Domain
import FoundationEssentials
import Postgres

/// A sandbox of this runner that mounts volumes, and what the runner last reported of it.
package struct VolumeUser: Sendable, Hashable {
    package var sandbox: SandboxID
    package var epoch: Int64
    package var desired: DesiredState
    package var reported: ObservedState
    package var volumes: [SandboxVolume]

    package init(
        sandbox: SandboxID,
        epoch: Int64,
        desired: DesiredState,
        reported: ObservedState,
        volumes: [SandboxVolume]
    ) {
        self.sandbox = sandbox
        self.epoch = epoch
        self.desired = desired
        self.reported = reported
        self.volumes = volumes
    }
}

/// What this runner last said of its mount of a volume.
package struct ReportedMount: Sendable, Hashable {
    package var volume: VolumeID
    package var state: VolumeMountState
    /// How long it has been so, by the database's clock.
    package var age: Duration

    package init(volume: VolumeID, state: VolumeMountState, age: Duration) {
        self.volume = volume
        self.state = state
        self.age = age
    }
}

// Volumes, under the runner's own login.
extension RunnerQueries {
    /// What is wished of a volume; nil for one that is not known any more.
    package func wish(of volume: VolumeID) async throws -> VolumeWish? {
        try await client.queryFirst("SELECT volume_wish(\(volume)) AS wish")?["wish"]
    }

    /// The sandboxes placed here that mount volumes.
    package func volumeUsers() async throws -> [VolumeUser] {
        try await client.query("SELECT sandbox_id, epoch, desired_state, state, volumes FROM my_sandbox_volume").map {
            row in
            VolumeUser(
                sandbox: try row["sandbox_id"],
                epoch: try row["epoch"],
                desired: try row["desired_state"],
                reported: try row["state"],
                volumes: try row.decode("volumes", as: JSON<[SandboxVolume]>.self).value
            )
        }
    }

    /// What this runner has reported of its mounts.
    package func mounts() async throws -> [ReportedMount] {
        try await client.query(
            """
            SELECT volume_id, state, extract(epoch FROM now() - since)::float8 AS age FROM volume_mount
            WHERE runner_id = current_runner()
            """
        ).map { row in
            let age: Double = try row["age"]
            return ReportedMount(volume: try row["volume_id"], state: try row["state"], age: .seconds(age))
        }
    }

    /// Says how a mount stands. Repeating it does not change since when it has been so.
    ///
    /// - Throws: `PostgresError` of `volume_is_there` for a volume that is deleted.
    package func reportMount(of volume: VolumeID, _ state: VolumeMountState, problem: String? = nil) async throws {
        try await client.execute(
            """
            INSERT INTO volume_mount (volume_id, runner_id, state, problem)
            VALUES (\(volume), current_runner(), \(state), \(problem))
            ON CONFLICT (volume_id, runner_id) DO UPDATE SET state = excluded.state, problem = excluded.problem,
                since = CASE WHEN volume_mount.state = excluded.state THEN volume_mount.since ELSE now() END
            """
        )
    }

    /// Says what is wrong with all mounts of this runner that work otherwise; nil when it is over.
    package func noteMounts(problem: String?) async throws {
        try await client.execute(
            """
            UPDATE volume_mount SET problem = \(problem)
            WHERE runner_id = current_runner() AND state <> 'error' AND (problem IS NULL) <> (\(problem)::text IS NULL)
            """
        )
    }

    /// Nothing of the volume is left on this host.
    package func forgetMount(of volume: VolumeID) async throws {
        try await client.execute(
            "DELETE FROM volume_mount WHERE volume_id = \(volume) AND runner_id = current_runner()"
        )
    }

    /// Takes volumes that are to be made or removed in S3.
    package func claimVolumeWork(atMost limit: Int) async throws -> [VolumeID] {
        try await client.query("SELECT claim_volume_work(\(Int32(clamping: limit))) AS id").map { try $0["id"] }
    }

    /// Says what came of it: `wish` is fulfilled, or there is trouble. False when something else is wished by now.
    @discardableResult
    package func finishVolumeWork(_ volume: VolumeID, wish: VolumeWish, trouble: String?) async throws -> Bool {
        try await client.queryFirst("SELECT finish_volume_work(\(volume), \(wish), \(trouble)) AS done").map {
            try $0["done"]
        } ?? false
    }
}
