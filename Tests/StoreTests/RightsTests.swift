import Domain
import Postgres
import Store
import TestSupport
import Testing

/// Least privilege: what a stolen login cannot do. Each denial stands beside a control that must succeed.
@Suite struct RightsTests {
    @Test func aRunnerSeesAndTouchesOnlyItsOwn() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner("a", cpu: 1) { a in
                let ofA = try await database.makeSandbox(of: tenant)
                try await database.withRunner("b", cpu: 1) { b in
                    let ofB = try await database.makeSandbox(of: tenant)
                    #expect(ofA.runnerID == a.id)
                    #expect(ofB.runnerID == b.id)
                    #expect(try await ids(a, "SELECT id FROM my_sandbox") == [ofA.id])
                    for table in ["sandbox_status", "sandbox_placement"] {
                        #expect(try await ids(a, "SELECT sandbox_id AS id FROM \(identifier: table)") == [ofA.id])
                    }
                    let touched = try await a.pool.execute(
                        "UPDATE sandbox_status SET state = 'started' WHERE sandbox_id = \(ofB.id)"
                    )
                    #expect(touched == 0)
                    #expect(try await a.report(ofA.id, .started))
                    #expect(try await a.pool.queryFirst("SELECT release(\(ofB.id), 1) AS done")!["done"] == false)
                    #expect(try await ids(a, "SELECT id FROM runner").count == 1)
                    await expectDenied(a.pool, "UPDATE sandbox_status SET runner_id = \(b.id)")
                }
            }
        }
    }

    @Test func aRunnerReadsNoSecretsOfOthers() async throws {
        try await TestDatabase.with { database in
            _ = try await database.makeTenant()
            try await database.withRunner { runner in
                for table in ["api_key", "sandbox", "route", "event", "organization", "sandbox_view"] {
                    await expectDenied(runner.pool, "SELECT * FROM \(identifier: table)")
                }
                await expectDenied(runner.pool, "UPDATE sandbox SET desired_state = 'started'")
                await expectDenied(runner.pool, "SELECT place(gen_random_uuid())")
                await expectDenied(runner.pool, "SELECT create_runner('x', 'test', 'x')")
                await expectDenied(runner.pool, "INSERT INTO sandbox_placement DEFAULT VALUES")
                await expectDenied(runner.pool, "SELECT authorize_api_key('\\x00')")
                _ = try await runner.pool.query("SELECT * FROM my_sandbox")
                _ = try await runner.pool.query("SELECT * FROM snapshot")
            }
        }
    }

    @Test func aProxyReadsRoutesAndNothingElse() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withPool(of: .proxy) { proxy in
                for table in ["api_key", "sandbox", "sandbox_status", "runner_status", "event", "app_user"] {
                    await expectDenied(proxy, "SELECT * FROM \(identifier: table)")
                }
                await expectDenied(proxy, "UPDATE sandbox SET desired_state = 'destroyed'")
                _ = try await proxy.query("SELECT * FROM route")
                let grant = try await proxy.query("SELECT organization_id FROM authorize_api_key(\(tenant.key.hash))")
                #expect(
                    try grant.map { try $0.decode("organization_id", as: OrganizationID.self) } == [tenant.organization]
                )
            }
        }
    }

    @Test func anAPIWritesSpecsAndNeitherPlacementsNorReports() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                try await database.withPool(of: .api) { api in
                    let new = tenant.newSandbox()
                    try await api.sandboxes.insert(new, by: Actor("test"))
                    #expect(try await api.sandboxes.find(new.id, in: tenant.organization)?.runnerID == runner.id)
                    await expectDenied(api, "UPDATE sandbox_status SET state = 'started'")
                    await expectDenied(api, "UPDATE sandbox_placement SET epoch = 9")
                    await expectDenied(api, "DELETE FROM sandbox")
                    await expectDenied(api, "SELECT ingress_secret FROM runner_status")
                    await expectDenied(api, "SELECT * FROM route")
                    await expectDenied(api, "DELETE FROM event")
                    await expectDenied(api, "SELECT renew_lease(1)")
                }
            }
        }
    }

    @Test func anOperatorChangesWishesByHand() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let one = try await database.makeSandbox(of: tenant, name: "one")
            try await database.withPool(of: .operator) { psql in
                #expect(
                    try await psql.execute("UPDATE sandbox SET desired_state = 'destroyed' WHERE name = 'one'") == 1
                )
                #expect(try await psql.execute("UPDATE sandbox SET record_terminals = true") == 1)
                #expect(try await psql.execute("UPDATE organization SET record_terminals = true") == 1)
                await expectDenied(psql, "SELECT hash FROM api_key")
                await expectDenied(psql, "UPDATE sandbox SET toolbox_token = 'x'")
                for view in ["sandboxes", "runners", "stuck_sandboxes", "reached_limits"] {
                    _ = try await psql.query("SELECT * FROM \(identifier: view)")
                }
            }
            let actor = try await database.owner.queryFirst(
                "SELECT actor FROM event WHERE subject_id = \(one.id) ORDER BY id DESC LIMIT 1"
            )
            #expect(try actor!.decode("actor", as: String.self).hasSuffix("_operator"))
        }
    }

    private func ids(_ runner: TestRunner, _ sql: SQL) async throws -> [SandboxID] {
        try await runner.pool.query(sql).map { try $0["id"] }
    }
}

func expectDenied(_ client: any PostgresClient, _ sql: SQL, at location: SourceLocation = #_sourceLocation) async {
    let error = await #expect(throws: PostgresError.self, "\(sql)", sourceLocation: location) {
        try await client.execute(sql)
    }
    #expect(error?.code == .insufficientPrivilege, "\(sql)", sourceLocation: location)
}
