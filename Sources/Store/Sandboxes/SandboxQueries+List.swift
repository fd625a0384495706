import Domain
import FoundationEssentials
import Postgres

extension SandboxQueries {
    /// One page in the order asked for.
    ///
    /// Pages are cut by key (sort key, id) and not by number, so that rows made or deleted meanwhile move nothing: a row that
    /// is there from first page to last, and whose sort key stands still, is seen exactly once.
    ///
    /// - Throws: `PostgresError` of class 22 if the cursor's key is none.
    package func list(_ filter: SandboxFilter, after cursor: SandboxCursor?, limit: Int) async throws -> SandboxPage {
        let rows = try await client.query(
            Self.listing(filter, among: try await labelled(filter), after: cursor, limit: limit + 1)
        )
        let items = try rows.prefix(limit).map(SandboxRecord.init)
        guard rows.count > limit, let last = items.last else { return SandboxPage(items: items) }
        let key: String = try rows[limit - 1]["sort_key"]
        return SandboxPage(
            items: items,
            next: SandboxCursor(sort: filter.sort, order: filter.order, key: key, id: last.id)
        )
    }

    /// Up to so many sandboxes with the labels asked for are looked up by them; where there are more, a page in any order is
    /// full after a hundred times its length.
    private static let fewLimit = 1000

    /// The sandboxes with the labels asked for, if they are few. Postgres takes any label for one that a hundredth of all rows
    /// have, and would go through all of an organization's sandboxes in the page's order to find the five that there are.
    private func labelled(_ filter: SandboxFilter) async throws -> [SandboxID]? {
        guard !filter.labels.isEmpty else { return nil }
        let ids = try await client.query(Self.labelling(filter, limit: Self.fewLimit + 1)).map { row in
            try row["id"] as SandboxID
        }
        return ids.count > Self.fewLimit ? nil : ids
    }

    /// Found apart from the limit: for the first few of what it takes for many, Postgres would read the table from its beginning.
    static func labelling(_ filter: SandboxFilter, limit: Int) -> SQL {
        """
        WITH labelled AS MATERIALIZED (
            SELECT v.id FROM sandbox v
            WHERE v.organization_id = \(filter.organizationID) AND v.destroyed_at IS NULL AND \(filter.hasLabels)
        )
        SELECT id FROM labelled LIMIT \(limit)
        """
    }

    /// The page's ids are chosen first, from the tables whose indexes keep the order, and only those rows are joined to
    /// everything else. Where a computed column is asked for, the choice has to be made on the view.
    ///
    /// - Parameter ids: only these, if they are known.
    static func listing(
        _ filter: SandboxFilter,
        among ids: [SandboxID]? = nil,
        after cursor: SandboxCursor?,
        limit: Int
    ) -> SQL {
        let (sort, isDescending) = (filter.sort, filter.order == .desc)
        let direction: SQL = isDescending ? "DESC" : "ASC"
        var conditions = filter.conditions
        if let ids { conditions.append("v.id = ANY (\(ids))") }
        if let cursor {
            let comparison: SQL = isDescending ? "<" : ">"
            conditions.append(
                "(\(sort.expression), \(sort.id)) \(comparison) (\(cursor.key)\(sort.keyCast), \(cursor.id))"
            )
        }
        return """
            SELECT \(SandboxRecord.columns), page.sort_key::text AS sort_key
            FROM (
                SELECT \(sort.id) AS id, \(sort.expression) AS sort_key
                FROM \(filter.source)
                WHERE \(conditions.joined(separator: " AND "))
                ORDER BY \(sort.expression) \(direction), \(sort.id) \(direction)
                LIMIT \(limit)
            ) AS page JOIN sandbox_view v ON v.id = page.id
            ORDER BY page.sort_key \(direction), page.id \(direction)
            """
    }
}

extension SandboxFilter {
    fileprivate var source: SQL {
        let asksForComputed = states != nil || isRecoverable != nil
        let sandboxes: SQL = asksForComputed ? "sandbox_view v" : "sandbox v"
        return asksForActivity ? "sandbox_activity a JOIN \(sandboxes) ON v.id = a.sandbox_id" : sandboxes
    }

    fileprivate var hasLabels: SQL { "v.labels @> \(json: labels)" }

    private var asksForActivity: Bool {
        sort == .lastActivityAt || lastActivityAt.lowest != nil || lastActivityAt.highest != nil
    }

    fileprivate var conditions: [SQL] {
        var all: [SQL] = ["v.organization_id = \(organizationID)", "v.destroyed_at IS NULL"]
        if asksForActivity { all.append("a.organization_id = \(organizationID)") }
        if let idPrefix { all.append("starts_with(v.id::text, lower(\(idPrefix)::text))") }
        if let namePrefix { all.append(Self.beginsWith(namePrefix)) }
        if !labels.isEmpty { all.append(hasLabels) }
        if let states { all.append("v.state = ANY (\(states))") }
        if let snapshots { all.append("v.snapshot_name = ANY (\(snapshots))") }
        if let regionIDs { all.append("v.region_id = ANY (\(regionIDs))") }
        if let isPublic { all.append("v.public = \(isPublic)") }
        if let isRecoverable { all.append("v.recoverable = \(isRecoverable)") }
        all += cpu.conditions(on: "v.cpu") + memoryGib.conditions(on: "v.memory_gib")
        all += diskGib.conditions(on: "v.disk_gib") + gpu.conditions(on: "v.gpu")
        all += createdAt.conditions(on: "v.created_at") + lastActivityAt.conditions(on: "a.last_activity_at")
        return all + autoDestroyAt.conditions(on: "v.auto_destroy_at")
    }

    /// A range of the index `sandbox_by_name`; the last character of Unicode ends it. No LIKE, so nothing to escape.
    private static func beginsWith(_ prefix: String) -> SQL {
        """
        lower(v.name) COLLATE "C" >= lower(\(prefix)::text) COLLATE "C" \
        AND lower(v.name) COLLATE "C" < (lower(\(prefix)::text) || chr(1114111)) COLLATE "C"
        """
    }
}

extension SandboxFilter.Bounds where Value: PostgresEncodable {
    fileprivate func conditions(on column: SQL) -> [SQL] {
        [lowest.map { "\(column) >= \($0)" }, highest.map { "\(column) <= \($0)" }].compactMap { $0 }
    }
}
