package import Domain
package import FoundationEssentials
import Postgres

/// What a list of sandboxes is narrowed to, and its order. Absent means any.
package struct SandboxFilter: Sendable {
    package enum Sort: String, Sendable, CaseIterable {
        case name, cpu, memoryGib, diskGib, lastActivityAt, createdAt
    }

    package enum Order: String, Sendable, CaseIterable { case asc, desc }

    package var organizationID: OrganizationID
    /// Prefixes, without regard to case.
    package var idPrefix: String?
    package var namePrefix: String?
    /// All of these, with these values.
    package var labels: [String: String] = [:]
    package var states: [String]?
    package var snapshots: [String]?
    package var regionIDs: [String]?
    package var cpu = Bounds<Double>()
    package var memoryGib = Bounds<Double>()
    package var diskGib = Bounds<Double>()
    package var gpu = Bounds<Double>()
    package var createdAt = Bounds<Date>()
    package var lastActivityAt = Bounds<Date>()
    package var autoDestroyAt = Bounds<Date>()
    package var isPublic: Bool?
    package var isRecoverable: Bool?
    package var sort = Sort.lastActivityAt
    package var order = Order.desc

    package init(organizationID: OrganizationID) { self.organizationID = organizationID }

    /// From here to there, both included.
    package struct Bounds<Value: Sendable>: Sendable {
        package var lowest: Value?
        package var highest: Value?
        package init(lowest: Value? = nil, highest: Value? = nil) {
            self.lowest = lowest
            self.highest = highest
        }
    }
}

/// Where the next page begins: the sort key and the id of the last row of the one before. Valid for one sort and order.
package struct SandboxCursor: Sendable, Codable, Equatable {
    package var sort: String
    package var order: String
    package var key: String
    package var id: SandboxID

    package init(sort: SandboxFilter.Sort, order: SandboxFilter.Order, key: String, id: SandboxID) {
        self.sort = sort.rawValue
        self.order = order.rawValue
        self.key = key
        self.id = id
    }
}

/// Some rows of a list, and where it goes on; nil at its end.
package struct SandboxPage: Sendable {
    package var items: [SandboxRecord]
    package var next: SandboxCursor?
}

extension SandboxFilter.Sort {
    /// The sorted expression. Each is never NULL, and sorts as the index that serves it does.
    var expression: SQL {
        switch self {
        case .name: "lower(v.name) COLLATE \"C\""
        case .cpu: "v.cpu"
        case .memoryGib: "v.memory_gib"
        case .diskGib: "v.disk_gib"
        case .lastActivityAt: "a.last_activity_at"
        case .createdAt: "v.created_at"
        }
    }

    /// The type that a cursor's key is cast to.
    var keyCast: SQL {
        switch self {
        case .name: "::text COLLATE \"C\""
        case .cpu, .memoryGib, .diskGib: "::integer"
        case .lastActivityAt, .createdAt: "::timestamptz"
        }
    }

    /// The tie-breaker, a column of the table whose index serves the order.
    var id: SQL {
        switch self {
        case .lastActivityAt: "a.sandbox_id"
        case .name, .cpu, .memoryGib, .diskGib, .createdAt: "v.id"
        }
    }
}
