package import Domain
package import Postgres

/// Queries on `volume`. Every one carries the organization: a stranger's volume is not found.
package struct VolumeQueries: Sendable {
    let client: any PostgresClient

    /// - Throws: `PostgresError` of `volume_name_is_unique` or `organizationCeiling`.
    package func insert(_ id: VolumeID, named name: String, in organization: OrganizationID, by actor: Actor)
        async throws
    {
        try await client.execute(
            """
            \(actor.acting) INSERT INTO volume (id, organization_id, name) SELECT \(id), \(organization), \(name) FROM acting
            """
        )
    }

    /// The volume, if it is the organization's and not deleted.
    package func find(_ id: VolumeID, in organization: OrganizationID) async throws -> VolumeRecord? {
        try await client.queryFirst(
            """
            SELECT \(VolumeRecord.columns) FROM volume
            WHERE id = \(id) AND organization_id = \(organization) AND state <> 'deleted'
            """
        ).map(VolumeRecord.init)
    }

    /// The living volume of this name; one that is being deleted does not bear it any more.
    package func find(named name: String, in organization: OrganizationID) async throws -> VolumeRecord? {
        try await client.queryFirst(
            """
            SELECT \(VolumeRecord.columns) FROM volume
            WHERE name = \(name) AND organization_id = \(organization) AND desired_state <> 'deleted'
            """
        ).map(VolumeRecord.init)
    }

    /// By id where the text is one, else by name.
    package func find(_ idOrName: String, in organization: OrganizationID) async throws -> VolumeRecord? {
        if let id = VolumeID(idOrName), let found = try await find(id, in: organization) { return found }
        return try await find(named: idOrName, in: organization)
    }

    /// All of an organization, oldest first: a ceiling bounds them. Deleted ones stay for a day.
    package func list(in organization: OrganizationID, includesDeleted: Bool) async throws -> [VolumeRecord] {
        try await client.query(
            """
            SELECT \(VolumeRecord.columns) FROM volume
            WHERE organization_id = \(organization) AND (\(includesDeleted) OR state <> 'deleted')
            ORDER BY created_at, id LIMIT \(Self.listLimit)
            """
        ).map(VolumeRecord.init)
    }

    private static let listLimit = 10_000

    /// Wishes it gone, data and all. False when there is none, or it was wished already.
    ///
    /// - Throws: `PostgresError` of `volumeInUse`.
    package func delete(_ id: VolumeID, in organization: OrganizationID, by actor: Actor) async throws -> Bool {
        try await client.execute(
            """
            \(actor.acting)
            UPDATE volume SET desired_state = 'deleted' FROM acting
            WHERE id = \(id) AND organization_id = \(organization) AND desired_state <> 'deleted'
            """
        ) > 0
    }

    /// Whether any runner mounts volumes.
    package func areOffered() async throws -> Bool {
        try await client.queryFirst("SELECT FROM runner_status WHERE mounts_volumes LIMIT 1") != nil
    }

    /// Forgets volumes that ended long ago; returns how many.
    package func purge() async throws -> Int {
        try await client.queryFirst("SELECT purge_volumes() AS changed").map { try $0["changed"] } ?? 0
    }
}

extension PostgresClient {
    package var volumes: VolumeQueries { VolumeQueries(client: self) }
}
