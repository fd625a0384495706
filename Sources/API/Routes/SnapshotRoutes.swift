import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// Snapshots, for reading.
struct SnapshotRoutes: Sendable {
    let database: any PostgresClient

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/snapshots", "get_all_snapshots", .key, list),
            APIRoute(.get, "/snapshots/{id}", "get_snapshot", .key) { call in
                let wanted = call.parameter("id")
                guard let found = try await database.snapshots.find(wanted, for: try call.caller.organization) else {
                    throw APIError.notFound("there is no snapshot with the id or name '\(wanted.shortened)'")
                }
                return try .json(SnapshotWire(found))
            },
        ]
    }

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
    var imageName: String
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
    var ref: String
    var sandboxClass = "container"

    init(_ record: SnapshotRecord) {
        id = record.id.description
        organizationId = record.organizationID?.description
        general = record.isGeneral
        name = record.name
        imageName = record.image
        state = record.state
        size = record.sizeBytes.map { Double($0) / 1_073_741_824 }
        entrypoint = record.entrypoint
        cpu = record.cpu
        gpu = record.gpu
        gpuType = record.gpuType
        mem = record.memoryGib
        disk = record.diskGib
        errorReason = record.errorReason
        createdAt = record.createdAt
        updatedAt = record.updatedAt
        lastUsedAt = record.lastUsedAt
        ref = record.image
    }
}
