import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// Snapshots: images with defaults to start sandboxes from. What is asked for is written; runners make it.
struct SnapshotRoutes: Sendable {
    let database: any PostgresClient

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/snapshots", "get_all_snapshots", .key, list),
            APIRoute(.post, "/snapshots", "create_snapshot", .permission(.writeSnapshots), create),
            APIRoute(.get, "/snapshots/{id}", "get_snapshot", .key) { call in
                let wanted = call.parameter("id")
                guard let found = try await database.snapshots.find(wanted, for: try call.caller.organization) else {
                    throw Self.notFound(wanted)
                }
                return try .json(SnapshotWire(found))
            },
            APIRoute(.delete, "/snapshots/{id}", "remove_snapshot", .permission(.deleteSnapshots), remove),
            APIRoute(.post, "/snapshots/{id}/activate", "activate_snapshot", .permission(.writeSnapshots), activate),
            APIRoute(
                .post,
                "/snapshots/{id}/deactivate",
                "deactivate_snapshot",
                .permission(.writeSnapshots),
                deactivate
            ),
        ]
    }

    private static func notFound(_ wanted: String) -> APIError {
        .notFound("there is no snapshot with the id or name '\(wanted.shortened)'")
    }

    // MARK: - Reading

    private func list(_ call: Call) async throws -> Response {
        var query = QueryReader(call.query)
        let page = query.integer("page", in: 1...100_000) ?? 1
        let limit = query.integer("limit", in: 1...200) ?? 100
        let name = query.text("name")
        let sort: SnapshotQueries.Sort = query.choice("sort") ?? .lastUsedAt
        let order: SandboxFilter.Order = query.choice("order") ?? .desc
        let isOfSandbox = query.text("sourceSandboxId") != nil
        try query.finish()
        // No snapshot comes from a sandbox as yet.
        if isOfSandbox { return try .json(SnapshotPageWire(items: [], total: 0, page: page, totalPages: 0)) }
        let (items, total) = try await database.snapshots.list(
            for: try call.caller.organization,
            nameContains: name,
            sort: sort,
            isDescending: order == .desc,
            page: page,
            limit: limit
        )
        return try .json(
            SnapshotPageWire(
                items: items.map(SnapshotWire.init),
                total: total,
                page: page,
                totalPages: (total + limit - 1) / limit
            )
        )
    }

    // MARK: - Making

    private func create(_ call: Call) async throws -> Response {
        let caller = try call.caller
        guard let organization = try await database.organizations.find(caller.organization) else {
            throw APIError.notFound("the key's organization is gone")
        }
        let wanted = try CreateSnapshotWire(try await call.object(), for: organization)
        let gate = RegistryGate(database: database)
        if let image = wanted.image { try await gate.admit(image, field: "imageName") }
        try await wanted.source?.admit(by: gate)
        let new = try await newSnapshot(wanted, for: organization)
        do {
            try await database.snapshots.insert(new, by: caller.actor)
        } catch let error as PostgresError where error.constraint == "snapshot_name_is_unique_in_organization" {
            throw APIError.conflict(
                "a snapshot with the name '\(new.name.shortened)' exists already. Choose another name, or delete that one"
            )
        }
        return try .json(SnapshotWire(try await own(new.id.description, of: caller)))
    }

    private func newSnapshot(_ wanted: CreateSnapshotWire, for organization: OrganizationRecord) async throws
        -> NewSnapshot
    {
        var new = NewSnapshot(organizationID: organization.id, name: wanted.name, imageName: wanted.image?.description)
        if let definition = wanted.source?.definition {
            try await translatingErrors { try await database.builds.use(definition.contextHashes, in: organization.id) }
            new.buildInfo = try definition.json
        }
        new.cpu = wanted.size.cpu ?? new.cpu
        new.memoryGib = wanted.size.memoryGib ?? new.memoryGib
        new.diskGib = wanted.size.diskGib ?? new.diskGib
        new.gpu = wanted.gpu ?? new.gpu
        new.gpuType = wanted.gpuType
        new.entrypoint = wanted.entrypoint
        if let region = wanted.region { new.regionIDs = [try await regionID(region, for: organization.id)] }
        return new
    }

    private func regionID(_ wanted: String, for organization: OrganizationID) async throws -> String {
        let regions = try await database.regions.list(for: organization)
        guard let region = regions.first(where: { $0.id == wanted || $0.name == wanted }) else {
            let known = regions.map(\.id).joined(separator: ", ")
            throw APIError.notFound("regionId is '\(wanted.shortened)', but the regions are: \(known)")
        }
        return region.id
    }

    // MARK: - Changing

    /// Has a snapshot made again that was deactivated or failed. Any other is answered as it is.
    private func activate(_ call: Call) async throws -> Response {
        let (caller, id) = (try call.caller, call.parameter("id"))
        let snapshot = try await own(id, of: caller)
        _ = try await database.snapshots.activate(snapshot.id, of: caller.organization, by: caller.actor)
        return try .json(SnapshotWire(try await own(id, of: caller)))
    }

    private func deactivate(_ call: Call) async throws -> Response {
        let (caller, id) = (try call.caller, call.parameter("id"))
        let snapshot = try await own(id, of: caller)
        if try await database.snapshots.deactivate(snapshot.id, of: caller.organization, by: caller.actor) {
            return .empty(.noContent)
        }
        let now = try await own(id, of: caller)
        guard now.state == .inactive else {
            throw APIError.badRequest(
                "snapshot '\(now.name)' is \(now.state.rawValue); only an active one can be deactivated"
            )
        }
        return .empty(.noContent)
    }

    /// Sandboxes made from it stay, and can be made anew on another runner while they live.
    private func remove(_ call: Call) async throws -> Response {
        let (caller, id) = (try call.caller, call.parameter("id"))
        let snapshot = try await own(id, of: caller)
        guard try await database.snapshots.delete(snapshot.id, of: caller.organization, by: caller.actor) else {
            throw Self.notFound(id)
        }
        return .empty(.ok)
    }

    /// The organization's own, by id only: the SDK looks names up by itself when it is answered 404.
    private func own(_ id: String, of caller: Caller) async throws -> SnapshotRecord {
        guard SnapshotID(id) != nil, let found = try await database.snapshots.find(id, for: caller.organization),
            found.id.description == id
        else { throw Self.notFound(id) }
        guard !found.isGeneral else {
            throw APIError.forbidden("snapshot '\(found.name)' is everybody's; only an operator can change it, in psql")
        }
        return found
    }
}

/// `PaginatedSnapshots`.
struct SnapshotPageWire: Encodable {
    var items: [SnapshotWire]
    var total: Int
    var page: Int
    var totalPages: Int
}

/// `SnapshotDto`.
struct SnapshotWire: Encodable {
    var id: String
    var organizationId: String?
    var general: Bool
    var name: String
    var imageName: String?
    var state: String
    /// GiB.
    var size: Double?
    var entrypoint: [String]?
    var cpu: Int
    var gpu: Int
    var gpuType: String?
    var mem: Int
    var disk: Int
    var errorReason: String?
    var createdAt: Date
    var updatedAt: Date
    var lastUsedAt: Date?
    var regionIds: [String]
    var ref: String?
    var sandboxClass = "container"

    init(_ record: SnapshotRecord) {
        id = record.id.description
        organizationId = record.organizationID?.description
        general = record.isGeneral
        name = record.name
        imageName = record.imageName ?? (record.buildInfo == nil ? record.image : nil)
        state = record.state.rawValue
        size = record.sizeBytes.map { Double($0) / 1_073_741_824 }
        entrypoint = record.entrypoint ?? record.imageEntrypoint
        cpu = record.cpu
        gpu = record.gpu
        gpuType = record.gpuType
        mem = record.memoryGib
        disk = record.diskGib
        errorReason = record.errorReason
        createdAt = record.createdAt
        updatedAt = record.updatedAt
        lastUsedAt = record.lastUsedAt
        regionIds = record.regionIDs
        ref = record.image
    }
}
