import Crypto
import Domain
import Foundation
import Logging
import Postgres
import Store
import Synchronization
import TestSupport
import Testing

/// The queries on the real schema, with the rights of a proxy's own login.
@Suite(.timeLimit(.minutes(5)))
struct RouteQueriesTests {
    private static let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    /// A started sandbox on a registered runner, seen through a proxy's login.
    private static func with(
        _ body: (TestDatabase, TestTenant, TestRunner, SandboxID, DatabaseRouteSource) async throws -> Void
    ) async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let sandbox = try await database.makeSandbox(of: tenant).id
                try await runner.reconcileOnce()
                let login = try await database.configuration(for: .proxy)
                let pool = PostgresPool(login, limits: .init(connectionLimit: 2, minimumIdle: 0), logger: log)
                try await TestDatabase.withRunning(pool) {
                    try await body(
                        database,
                        tenant,
                        runner,
                        sandbox,
                        DatabaseRouteSource(pool, listeningWith: login, log: log)
                    )
                }
            }
        }
    }

    @Test func aRouteIsReadWithAllItsCredentials() async throws {
        try await Self.with { database, tenant, runner, sandbox, source in
            let route = try #require(try await source.route(of: sandbox))
            #expect(route.sandbox == sandbox)
            #expect(route.organization == tenant.organization)
            #expect(route.runner == runner.id)
            #expect(route.epoch == 1)
            #expect(route.state == "started")
            #expect(route.ingressAddress == "127.0.0.1:1")
            #expect(route.ingressSecret == Array(repeating: 7, count: 32))
            #expect(!route.toolboxToken.isEmpty)
            #expect(!route.signingKey.isEmpty)
            #expect(try await source.route(of: .random()) == nil)
        }
    }

    @Test func aKeyGrantsItsOrganizationUntilItIsGone() async throws {
        try await Self.with { database, tenant, _, _, source in
            let hash = Array(SHA256.hash(data: Array(tenant.key.text.utf8)))
            #expect(try await source.grant(keyHash: hash)?.organization == tenant.organization)
            try await database.owner.execute("DELETE FROM api_key")
            #expect(try await source.grant(keyHash: hash) == nil)
        }
    }

    @Test func activityIsWritten() async throws {
        try await Self.with { database, _, _, sandbox, source in
            try await database.owner.execute("UPDATE sandbox_activity SET last_activity_at = 'epoch'")
            try await source.reportActivity(of: [sandbox, .random()])
            let row = try await database.owner.queryFirst(
                "SELECT last_activity_at > now() - interval '1 minute' AS fresh FROM sandbox_activity WHERE sandbox_id = \(sandbox)"
            )
            #expect(try row?.decode("fresh") == true)
        }
    }

    @Test func changesAreHeardAfterAResync() async throws {
        try await Self.with { database, tenant, runner, sandbox, source in
            let heard = Heard()
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    try await source.followChanges { change in heard.changes.withLock { $0.append(change) } }
                }
                try await eventually("resync") { heard.has(.resync) }
                try await runner.report(sandbox, .stopping)
                try await eventually("sandbox") { heard.has(.sandbox(sandbox)) }
                try await database.owner.execute("DELETE FROM api_key")
                let revoked = RouteChange.key(KeyTag(of: tenant.key.hash))
                try await eventually("key") { heard.has(revoked) }
                group.cancelAll()
            }
        }
    }

    @Test func aProxyMayReadNothingElse() async throws {
        try await Self.with { database, _, _, _, _ in
            try await database.withPool(of: .proxy) { pool in
                for table in ["api_key", "sandbox", "sandbox_status", "runner_status", "event"] {
                    await #expect(throws: PostgresError.self, "\(table)") {
                        try await pool.query("SELECT * FROM \(identifier: table) LIMIT 1")
                    }
                }
            }
        }
    }
}

private final class Heard: Sendable {
    let changes = Mutex<[RouteChange]>([])
    func has(_ change: RouteChange) -> Bool { changes.withLock { $0.contains(change) } }
}
