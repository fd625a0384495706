import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// The caller's organization, its use, its user and its regions: for reading, but for one default.
struct OrganizationRoutes: Sendable {
    let database: any PostgresClient

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/organizations", "list_organizations", .key) { call in
                try .json([OrganizationWire(try await organization(of: try call.caller))])
            },
            APIRoute(.get, "/organizations/{id}", "get_organization", .key) { call in
                try .json(OrganizationWire(try await organization(named: call)))
            },
            APIRoute(.get, "/organizations/{id}/usage", "get_organization_usage_overview", .key, usage),
            APIRoute(
                .post,
                "/organizations/{id}/terminal-recording/{isOn}",
                "set_terminal_recording_default",
                .key,
                setRecording
            ),
            APIRoute(.get, "/users/me", "get_authenticated_user", .key) { call in
                guard let user = try await database.organizations.user(try call.caller.user) else {
                    throw APIError.notFound("the key's user is gone")
                }
                return try .json(UserWire(user))
            },
            APIRoute(.get, "/regions", "list_available_regions", .key) { call in
                try .json(try await database.regions.list(for: try call.caller.organization).map(RegionWire.init))
            },
            APIRoute(.get, "/regions/{id}", "get_region_by_id", .key) { call in
                let regions = try await database.regions.list(for: try call.caller.organization)
                guard let region = regions.first(where: { $0.id == call.parameter("id") }) else {
                    throw APIError.notFound("there is no region '\(call.parameter("id").shortened)'")
                }
                return try .json(RegionWire(region))
            },
            APIRoute(.get, "/shared-regions", "list_shared_regions", .key) { call in
                let regions = try await database.regions.list(for: try call.caller.organization)
                return try .json(regions.filter { $0.organizationID == nil }.map(RegionWire.init))
            },
        ]
    }

    private func organization(of caller: Caller) async throws -> OrganizationRecord {
        guard let found = try await database.organizations.find(caller.organization) else {
            throw APIError.notFound("the key's organization is gone")
        }
        return found
    }

    /// Somebody else's organization is not found, like one that is not.
    private func organization(named call: Call) async throws -> OrganizationRecord {
        let (caller, id) = (try call.caller, call.parameter("id"))
        guard OrganizationID(id) == caller.organization else {
            throw APIError.notFound("there is no organization '\(id.shortened)' that this key belongs to")
        }
        return try await organization(of: caller)
    }

    /// Martlet's own. It decides over what others do, so it takes an owner's key that may do everything.
    private func setRecording(_ call: Call) async throws -> Response {
        let (caller, isOn) = (try call.caller, try call.boolean("isOn"))
        let organization = try await organization(named: call)
        let isOwner = try await database.organizations.isOwner(caller.user, of: organization.id)
        guard isOwner, caller.permissions.isEverything else {
            throw APIError.forbidden(
                "whether terminals are recorded by default is for an owner of the organization, with a key that has all permissions"
            )
        }
        try await database.organizations.setRecordsTerminals(isOn, of: organization.id, by: caller.actor)
        return try .json(OrganizationWire(try await self.organization(of: caller)))
    }

    private func usage(_ call: Call) async throws -> Response {
        let organization = try await organization(named: call)
        let usage = try await database.organizations.usage(of: organization.id)
        let snapshots = try await database.snapshots.countOwned(by: organization.id)
        return try .json(
            UsageWire(
                regionUsage: usage.map { RegionUsageWire($0, of: organization) },
                totalSnapshotQuota: organization.snapshotLimit ?? UsageWire.unlimited,
                currentSnapshotUsage: snapshots,
                totalVolumeQuota: 0,
                currentVolumeUsage: 0
            )
        )
    }
}

/// `Organization` of the published client, which wants every field, also those that make no sense here.
struct OrganizationWire: Encodable {
    var id: String
    var name: String
    var createdBy: String
    var personal: Bool
    var createdAt: Date
    var updatedAt: Date
    var suspended: Bool
    /// The client takes no null here; 1970 is "never".
    var suspendedAt = Date(timeIntervalSince1970: 0)
    var suspensionReason: String
    var suspendedUntil = Date(timeIntervalSince1970: 0)
    var suspensionCleanupGracePeriodHours = 0
    var maxCpuPerSandbox: Int
    var maxMemoryPerSandbox: Int
    var maxDiskPerSandbox: Int
    var secretQuota = 0
    var maxSecretsPerSandbox = 0
    var snapshotDeactivationTimeoutMinutes: Int
    var sandboxLimitedNetworkEgress: Bool
    var previewWarningEnabled = false
    var ssoEnabled = false
    var scimEnabled = false
    var defaultRegionId: String?
    var experimentalConfig: [String: String] = [:]
    /// A field of Martlet's own: the default for new sandboxes.
    var recordTerminals: Bool

    init(_ record: OrganizationRecord) {
        id = record.id.description
        name = record.name
        createdBy = record.createdBy
        personal = record.isPersonal
        createdAt = record.createdAt
        updatedAt = record.updatedAt
        suspended = record.isSuspended
        suspensionReason = record.suspensionReason ?? ""
        maxCpuPerSandbox = record.cpuLimitPerSandbox
        maxMemoryPerSandbox = record.memoryLimitGibPerSandbox
        maxDiskPerSandbox = record.diskLimitGibPerSandbox
        snapshotDeactivationTimeoutMinutes = record.snapshotDeactivationMinutes
        sandboxLimitedNetworkEgress = record.blocksNetworkByDefault
        defaultRegionId = record.defaultRegionID
        recordTerminals = record.recordsTerminalsByDefault
    }
}

/// `OrganizationUsageOverview`.
struct UsageWire: Encodable {
    /// The client wants a number where there is no ceiling.
    static let unlimited = 1_000_000

    var regionUsage: [RegionUsageWire]
    var totalSnapshotQuota: Int
    var currentSnapshotUsage: Int
    var totalVolumeQuota: Int
    var currentVolumeUsage: Int
}

/// `RegionUsageOverview`. Ceilings are the organization's, over all regions.
struct RegionUsageWire: Encodable {
    var regionId: String
    var sandboxClass = "container"
    var totalCpuQuota: Int
    var currentCpuUsage: Int
    var totalMemoryQuota: Int
    var currentMemoryUsage: Int
    var totalDiskQuota: Int
    var currentDiskUsage: Int
    var totalGpuQuota = UsageWire.unlimited
    var currentGpuUsage: Int
    var maxCpuPerSandbox: Int
    var maxMemoryPerSandbox: Int
    var maxDiskPerSandbox: Int

    init(_ usage: RegionUsage, of organization: OrganizationRecord) {
        regionId = usage.regionID
        totalCpuQuota = organization.cpuLimit ?? UsageWire.unlimited
        currentCpuUsage = usage.cpu
        totalMemoryQuota = organization.memoryLimitGib ?? UsageWire.unlimited
        currentMemoryUsage = usage.memoryGib
        totalDiskQuota = organization.diskLimitGib ?? UsageWire.unlimited
        currentDiskUsage = usage.diskGib
        currentGpuUsage = usage.gpu
        maxCpuPerSandbox = organization.cpuLimitPerSandbox
        maxMemoryPerSandbox = organization.memoryLimitGibPerSandbox
        maxDiskPerSandbox = organization.diskLimitGibPerSandbox
    }
}

/// `User`.
struct UserWire: Encodable {
    var id: String
    var name: String
    var email: String
    var emailVerified = true
    var publicKeys: [String] = []
    var createdAt: Date

    init(_ user: UserRecord) {
        id = user.id.description
        name = user.name
        email = user.email
        createdAt = user.createdAt
    }
}

/// `Region`.
struct RegionWire: Encodable {
    var id: String
    var name: String
    var organizationId: String?
    var regionType: String
    var createdAt: Date
    var updatedAt: Date

    init(_ region: RegionRecord) {
        id = region.id
        name = region.name
        organizationId = region.organizationID?.description
        regionType = region.organizationID == nil ? "shared" : "custom"
        createdAt = region.createdAt
        updatedAt = region.updatedAt
    }
}
