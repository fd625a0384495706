import Domain
import FoundationEssentials
import Postgres
import TestSupport
import Testing

@testable import Store

@Suite struct ListTests {
    @Test func everyOrderGivesEverySandboxOnce() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            for index in 0..<25 {
                try await database.makeSandbox(of: tenant, name: "box\(index % 2 == 0 ? "A" : "b")-\(index)") {
                    $0.cpu = 1 + index % 3
                    $0.memoryGib = 1 + index % 2
                }
            }
            for sort in SandboxFilter.Sort.allCases {
                for order in SandboxFilter.Order.allCases {
                    var filter = SandboxFilter(organizationID: tenant.organization)
                    (filter.sort, filter.order) = (sort, order)
                    let seen = try await all(filter, limit: 7, database)
                    #expect(seen.count == 25, "\(sort) \(order)")
                    #expect(Set(seen.map(\.id)).count == 25, "\(sort) \(order)")
                }
            }
        }
    }

    @Test func pagesStandStillWhileOthersInsert() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            var old: Set<SandboxID> = []
            for _ in 0..<20 { old.insert(try await database.makeSandbox(of: tenant).id) }
            var filter = SandboxFilter(organizationID: tenant.organization)
            filter.sort = .createdAt
            var cursor: SandboxCursor?
            var seen: [SandboxID] = []
            repeat {
                let page = try await database.owner.sandboxes.list(filter, after: cursor, limit: 6)
                seen += page.items.map(\.id)
                cursor = page.next
                try await database.makeSandbox(of: tenant)
            } while cursor != nil
            #expect(seen.count == 20)
            #expect(Set(seen) == old)
        }
    }

    @Test func filtersNarrow() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let stranger = try await database.makeTenant("stranger")
            try await database.makeSandbox(of: stranger, name: "Alpha-stranger")
            let alpha = try await database.makeSandbox(of: tenant, name: "Alpha_1") {
                $0.labels = ["team": "red", "tier": "1"]
                $0.cpu = 4
                $0.isPublic = true
                $0.ttlMinutes = 60
            }
            let beta = try await database.makeSandbox(of: tenant, name: "beta") { $0.labels = ["team": "blue"] }
            func names(_ adjust: (inout SandboxFilter) -> Void) async throws -> Set<String> {
                var filter = SandboxFilter(organizationID: tenant.organization)
                adjust(&filter)
                return Set(try await all(filter, limit: 100, database).map(\.name))
            }
            #expect(try await names { _ in } == ["Alpha_1", "beta"])
            #expect(try await names { $0.namePrefix = "ALPHA" } == ["Alpha_1"])
            #expect(try await names { $0.namePrefix = "Alpha%" } == [], "no wildcards")
            #expect(try await names { $0.namePrefix = "Alpha__" } == [], "no wildcards")
            #expect(try await names { $0.idPrefix = String(beta.id.description.prefix(8)).uppercased() } == ["beta"])
            #expect(try await names { $0.labels = ["team": "red"] } == ["Alpha_1"])
            #expect(try await names { $0.labels = ["team": "red", "tier": "2"] } == [])
            #expect(try await names { $0.states = ["creating"] } == ["Alpha_1", "beta"])
            #expect(try await names { $0.states = [] } == [])
            #expect(try await names { $0.snapshots = ["default"] } == ["Alpha_1", "beta"])
            #expect(try await names { $0.snapshots = ["other"] } == [])
            #expect(try await names { $0.regionIDs = ["test"] } == ["Alpha_1", "beta"])
            #expect(try await names { $0.cpu.lowest = 2 } == ["Alpha_1"])
            #expect(try await names { $0.cpu.highest = 2.5 } == ["beta"])
            #expect(try await names { $0.memoryGib.lowest = 2 } == [])
            #expect(try await names { $0.isPublic = true } == ["Alpha_1"])
            #expect(try await names { $0.isRecoverable = true } == [])
            #expect(try await names { $0.autoDestroyAt.lowest = Date() } == ["Alpha_1"])
            #expect(try await names { $0.createdAt.highest = alpha.createdAt } == ["Alpha_1"])
            #expect(try await names { $0.lastActivityAt.lowest = Date().addingTimeInterval(60) } == [])
        }
    }

    @Test func forgedCursorsAreInvalidValues() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            for sort in [SandboxFilter.Sort.cpu, .createdAt, .lastActivityAt] {
                var filter = SandboxFilter(organizationID: tenant.organization)
                filter.sort = sort
                let forged = SandboxCursor(sort: sort, order: .desc, key: "'; DROP TABLE sandbox --", id: .random())
                let error = await #expect(throws: PostgresError.self) {
                    _ = try await database.owner.sandboxes.list(filter, after: forged, limit: 5)
                }
                #expect(error.map { StoreError($0).code } == .invalidValue)
            }
        }
    }

    /// Few are looked up by the label, many are met on the way: the pages hold the same either way.
    @Test func aLabelThatFewOrManyHaveFindsAllOfThem() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await fill(12_000, of: tenant, database)
            var filter = SandboxFilter(organizationID: tenant.organization)
            for (labels, expected) in [(["number": "17"], 1), (["tenth": "3"], 1200), (["tenth": "x"], 0)] {
                filter.labels = labels
                let found = try await all(filter, limit: 100, database)
                #expect(found.count == expected)
                #expect(Set(found.map(\.id)).count == expected)
                #expect(found.allSatisfy { $0.labels.merging(labels) { $1 } == $0.labels })
            }
        }
    }

    /// With 20,000 rows of one organization, what the SDK does all the time is served by an index, in order.
    @Test func hotQueriesUseIndexes() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await fill(20_000, of: tenant, database)
            let cursor = SandboxCursor(
                sort: .lastActivityAt,
                order: .desc,
                key: "2026-01-01 00:00:00+00",
                id: .random()
            )
            var byName = SandboxFilter(organizationID: tenant.organization)
            byName.sort = .name
            byName.namePrefix = "box-1"
            var byAge = SandboxFilter(organizationID: tenant.organization)
            byAge.sort = .createdAt
            var byLabel = SandboxFilter(organizationID: tenant.organization)
            byLabel.labels = ["number": "17"]
            let usual = SandboxFilter(organizationID: tenant.organization)
            let change = SandboxQueries.application(
                .start,
                to: .random(),
                in: tenant.organization,
                generation: 1,
                by: Actor("test")
            )
            let hot: [(String, SQL, String)] = [
                ("find by id", SandboxQueries.finding(.random(), in: tenant.organization), "sandbox_pkey"),
                ("find by name", SandboxQueries.finding(name: "box-17", in: tenant.organization), "sandbox_"),
                ("list", SandboxQueries.listing(usual, after: nil, limit: 101), "sandbox_by_activity"),
                ("list on", SandboxQueries.listing(usual, after: cursor, limit: 101), "sandbox_by_activity"),
                ("list by age", SandboxQueries.listing(byAge, after: nil, limit: 101), "sandbox_by_age"),
                ("list by name", SandboxQueries.listing(byName, after: nil, limit: 101), "sandbox_by_name"),
                ("labels", SandboxQueries.labelling(byLabel, limit: 1001), "sandbox_by_label"),
                (
                    "list by label",
                    SandboxQueries.listing(byLabel, among: [.random(), .random()], after: nil, limit: 101),
                    "sandbox_pkey"
                ),
                ("change", change, "sandbox_pkey"),
            ]
            for (name, sql, index) in hot {
                let plan = try await database.owner.query("EXPLAIN \(sql)").map {
                    try $0.decode(at: 0, as: String.self)
                }
                .joined(separator: "\n")
                #expect(plan.contains(index), "\(name):\n\(plan)")
                #expect(!plan.contains("Seq Scan on sandbox "), "\(name):\n\(plan)")
                #expect(!plan.contains("Seq Scan on sandbox_activity"), "\(name):\n\(plan)")
            }
        }
    }

    private func all(_ filter: SandboxFilter, limit: Int, _ database: TestDatabase) async throws -> [SandboxRecord] {
        var (seen, cursor): ([SandboxRecord], SandboxCursor?) = ([], nil)
        repeat {
            let page = try await database.owner.sandboxes.list(filter, after: cursor, limit: limit)
            seen += page.items
            cursor = page.next
        } while cursor != nil
        return seen
    }

    private func fill(_ number: Int, of tenant: TestTenant, _ database: TestDatabase) async throws {
        try await database.owner.withConnection { connection in
            try await connection.execute(script: "ALTER TABLE sandbox DISABLE TRIGGER USER")
            try await connection.execute(
                """
                INSERT INTO sandbox (organization_id, name, region_id, snapshot_name, image, labels, cpu, memory_gib, disk_gib, created_at)
                SELECT \(tenant.organization), 'box-' || n, \(tenant.region), 'default', 'image',
                    jsonb_build_object('number', n::text, 'tenth', (n % 10)::text), 1, 1, 3,
                    now() - n * interval '1 second' FROM generate_series(1, \(number)::int) AS n
                """
            )
            try await connection.execute(
                """
                INSERT INTO sandbox_activity (sandbox_id, organization_id, last_activity_at)
                SELECT id, organization_id, created_at FROM sandbox
                """
            )
            try await connection.execute(script: "ALTER TABLE sandbox ENABLE TRIGGER USER")
            try await connection.execute("ANALYZE sandbox, sandbox_activity")
        }
    }
}
