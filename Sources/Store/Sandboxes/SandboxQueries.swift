package import Domain
package import Postgres

/// Queries on `sandbox` and `sandbox_view`. Every one carries the organization: a stranger's sandbox is not found.
package struct SandboxQueries: Sendable {
    let client: any PostgresClient

    /// Inserts a sandbox; triggers place it in the same transaction if a runner has room.
    ///
    /// - Throws: `PostgresError` of `sandbox_name_is_unique`, `organizationCeiling`, or of a CHECK.
    package func insert(_ new: NewSandbox, by actor: Actor) async throws {
        try await client.execute(Self.insertion(new, by: actor))
    }

    /// The sandbox, if it is the organization's and not gone. Sandboxes that waited too long for a runner stay readable.
    package func find(_ id: SandboxID, in organization: OrganizationID) async throws -> SandboxRecord? {
        try await client.queryFirst(Self.finding(id, in: organization)).map(SandboxRecord.init)
    }

    /// The living sandbox of this name; failing that, the newest that is being destroyed.
    package func find(named name: String, in organization: OrganizationID) async throws -> SandboxRecord? {
        try await client.queryFirst(Self.finding(name: name, in: organization)).map(SandboxRecord.init)
    }

    /// By id where the text is one, else by name.
    package func find(_ idOrName: String, in organization: OrganizationID) async throws -> SandboxRecord? {
        if let id = SandboxID(idOrName), let found = try await find(id, in: organization) { return found }
        return try await find(named: idOrName, in: organization)
    }

    /// Applies a change to a sandbox that is not being destroyed.
    ///
    /// - Parameter generation: the one the decision was made on; with another one nothing is written. nil does not care.
    /// - Returns: whether the row was written. If not, it is gone, being destroyed, or of another generation: read it again.
    package func apply(
        _ change: SandboxChange,
        to id: SandboxID,
        in organization: OrganizationID,
        generation: Int64? = nil,
        by actor: Actor
    ) async throws -> Bool {
        try await client.execute(Self.application(change, to: id, in: organization, generation: generation, by: actor))
            > 0
    }

    /// The key that signs file URLs.
    package func signingKey(_ id: SandboxID, in organization: OrganizationID) async throws -> String? {
        try await client.queryFirst(
            """
            SELECT signing_key FROM sandbox
            WHERE id = \(id) AND organization_id = \(organization) AND destroyed_at IS NULL
            """
        ).map { try $0["signing_key"] }
    }

    /// Counts as a sign of use: idle timers begin anew. Unknown ids are passed over.
    package func reportActivity(_ ids: [SandboxID]) async throws {
        _ = try await client.query("SELECT report_activity(\(ids))")
    }

    /// Does what is due and needs no runner; returns how many rows changed. 0 if another API is at it.
    package func housekeep() async throws -> Int {
        try await client.queryFirst("SELECT housekeep() AS changed").map { try $0["changed"] } ?? 0
    }

    /// Deletes a portion of the events that are too old; returns how many.
    package func purgeEvents() async throws -> Int {
        try await client.queryFirst("SELECT purge_events() AS changed").map { try $0["changed"] } ?? 0
    }
}

extension PostgresClient {
    package var sandboxes: SandboxQueries { SandboxQueries(client: self) }
}

extension SandboxQueries {
    static func insertion(_ new: NewSandbox, by actor: Actor) -> SQL {
        """
        \(actor.acting)
        INSERT INTO sandbox (
            id, organization_id, name, region_id, snapshot_id, snapshot_name, image, architecture, os_user, entrypoint,
            allow_sudo, env, labels, public, cpu, memory_gib, disk_gib, gpu, gpu_types, network_block_all, network_allow_list,
            auto_stop_minutes, auto_archive_minutes, auto_delete_minutes, auto_destroy_at, queue_timeout_minutes,
            record_terminals, volumes)
        SELECT \(new.id), \(new.organizationID), \(new.name ?? new.id.description), \(new.regionID), \(new.snapshot.id),
            \(new.snapshot.name), \(new.snapshot.image), \(new.snapshot.architecture), \(new.osUser ?? new.snapshot.osUser),
            \(new.snapshot.entrypoint), \(new.snapshot.allowsSudo), \(json: new.env), \(json: new.labels), \(new.isPublic),
            \(new.cpu), \(new.memoryGib), \(new.diskGib), \(new.gpu), \(new.gpuTypes), \(new.networkBlockAll),
            \(new.networkAllowList), \(new.autoStopMinutes), \(new.autoArchiveMinutes), \(new.autoDeleteMinutes),
            now() + make_interval(mins => \(new.ttlMinutes.map(Int32.init))), \(new.queueTimeoutMinutes), \(new.recordsTerminals),
            \(json: new.volumes)
        FROM acting
        """
    }

    static func finding(_ id: SandboxID, in organization: OrganizationID) -> SQL {
        """
        SELECT \(SandboxRecord.columns) FROM sandbox_view v
        WHERE v.id = \(id) AND v.organization_id = \(organization)
            AND (v.destroyed_at IS NULL OR v.queue_timed_out_at IS NOT NULL)
        """
    }

    /// Written so that the index `sandbox_by_name` serves it.
    static func finding(name: String, in organization: OrganizationID) -> SQL {
        """
        SELECT \(SandboxRecord.columns) FROM sandbox_view v
        WHERE v.organization_id = \(organization) AND v.destroyed_at IS NULL AND v.name = \(name)
            AND lower(v.name) COLLATE "C" = lower(\(name)::text) COLLATE "C"
        ORDER BY v.desired_state = 'destroyed', v.created_at DESC LIMIT 1
        """
    }

    static func application(
        _ change: SandboxChange,
        to id: SandboxID,
        in organization: OrganizationID,
        generation: Int64?,
        by actor: Actor
    ) -> SQL {
        """
        \(actor.acting)
        UPDATE sandbox SET \(change.assignments) FROM acting
        WHERE id = \(id) AND organization_id = \(organization) AND desired_state <> 'destroyed'
            AND generation = coalesce(\(generation), generation)
        """
    }
}
