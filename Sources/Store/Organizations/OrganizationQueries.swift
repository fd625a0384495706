package import Domain
package import FoundationEssentials
package import Postgres

/// A tenant: one row of `organization`. Absent ceilings do not exist.
package struct OrganizationRecord: Sendable, Identifiable {
    package let id: OrganizationID
    package let name: String
    package let isPersonal: Bool
    package let createdBy: String
    package let defaultRegionID: String?
    package let isSuspended: Bool
    package let suspensionReason: String?
    package let cpuLimit: Int?
    package let memoryLimitGib: Int?
    package let diskLimitGib: Int?
    package let cpuLimitPerSandbox: Int
    package let memoryLimitGibPerSandbox: Int
    package let diskLimitGibPerSandbox: Int
    package let blocksNetworkByDefault: Bool
    package let snapshotLimit: Int?
    /// 0 means that unused snapshots stay active.
    package let snapshotDeactivationMinutes: Int
    package let recordsTerminalsByDefault: Bool
    package let createdAt: Date
    package let updatedAt: Date

    init(_ row: Row) throws {
        id = try row["id"]
        name = try row["name"]
        isPersonal = try row["personal"]
        createdBy = try row["created_by"]
        defaultRegionID = try row["default_region_id"]
        isSuspended = try row["suspended"]
        suspensionReason = try row["suspension_reason"]
        cpuLimit = try row["cpu_limit"]
        memoryLimitGib = try row["memory_limit_gib"]
        diskLimitGib = try row["disk_limit_gib"]
        cpuLimitPerSandbox = try row["cpu_limit_per_sandbox"]
        memoryLimitGibPerSandbox = try row["memory_limit_gib_per_sandbox"]
        diskLimitGibPerSandbox = try row["disk_limit_gib_per_sandbox"]
        blocksNetworkByDefault = try row["block_network_by_default"]
        snapshotLimit = try row["snapshot_limit"]
        snapshotDeactivationMinutes = try row["snapshot_deactivation_minutes"]
        recordsTerminalsByDefault = try row["record_terminals"]
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
    }
}

/// What an organization's living sandboxes ask for in one region.
package struct RegionUsage: Sendable {
    package let regionID: String
    package let cpu: Int
    package let memoryGib: Int
    package let diskGib: Int
    package let gpu: Int
}

/// A person: one row of `app_user`.
package struct UserRecord: Sendable, Identifiable {
    package let id: UserID
    package let name: String
    package let email: String
    package let createdAt: Date
}

/// Queries on `organization` and `app_user`.
package struct OrganizationQueries: Sendable {
    let client: any PostgresClient

    package func find(_ id: OrganizationID) async throws -> OrganizationRecord? {
        try await client.queryFirst(
            """
            SELECT id, name, personal, created_by, default_region_id, suspended, suspension_reason, cpu_limit, memory_limit_gib,
                disk_limit_gib, cpu_limit_per_sandbox, memory_limit_gib_per_sandbox, disk_limit_gib_per_sandbox,
                block_network_by_default, snapshot_limit, snapshot_deactivation_minutes, record_terminals, created_at, updated_at
            FROM organization WHERE id = \(id)
            """
        ).map(OrganizationRecord.init)
    }

    /// Whether terminals of sandboxes that are made from now on are recorded, unless their creator says otherwise.
    package func setRecordsTerminals(_ records: Bool, of organization: OrganizationID, by actor: Actor) async throws {
        try await client.execute(Self.settingRecording(records, of: organization, by: actor))
    }

    static func settingRecording(_ records: Bool, of organization: OrganizationID, by actor: Actor) -> SQL {
        """
        \(actor.acting)
        UPDATE organization SET record_terminals = \(records), updated_at = now() FROM acting WHERE id = \(organization)
        """
    }

    /// One entry for each region the organization may use, also where it has nothing.
    package func usage(of organization: OrganizationID) async throws -> [RegionUsage] {
        try await client.query(
            """
            SELECT g.id, coalesce(sum(s.cpu), 0) AS cpu, coalesce(sum(s.memory_gib), 0) AS memory_gib,
                coalesce(sum(s.disk_gib), 0) AS disk_gib, coalesce(sum(s.gpu), 0) AS gpu
            FROM region g LEFT JOIN sandbox s
                ON s.region_id = g.id AND s.organization_id = \(organization) AND s.desired_state <> 'destroyed'
            WHERE g.organization_id = \(organization) OR g.organization_id IS NULL
            GROUP BY g.id ORDER BY g.id
            """
        ).map { row in
            RegionUsage(
                regionID: try row["id"],
                cpu: try row["cpu"],
                memoryGib: try row["memory_gib"],
                diskGib: try row["disk_gib"],
                gpu: try row["gpu"]
            )
        }
    }

    package func user(_ id: UserID) async throws -> UserRecord? {
        try await client.queryFirst("SELECT id, name, email, created_at FROM app_user WHERE id = \(id)").map { row in
            UserRecord(
                id: try row["id"],
                name: try row["name"],
                email: try row["email"],
                createdAt: try row["created_at"]
            )
        }
    }

    /// Whether the user may act for others in the organization.
    package func isOwner(_ user: UserID, of organization: OrganizationID) async throws -> Bool {
        try await client.queryFirst(
            """
            SELECT FROM organization_member
            WHERE organization_id = \(organization) AND user_id = \(user) AND role = 'owner'
            """
        ) != nil
    }
}

extension PostgresClient {
    package var organizations: OrganizationQueries { OrganizationQueries(client: self) }
}
