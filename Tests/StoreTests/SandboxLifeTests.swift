import Domain
import Postgres
import Store
import Testing
import TestSupport

@Suite struct SandboxLifeTests {
    @Test func livesFromCreateToDestroyed() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let made = try await database.makeSandbox(of: tenant, name: "one")
                #expect(made.state == .creating)
                #expect(made.runnerID == runner.id)
                try await runner.report(made.id, .started)
                let started = try await database.owner.sandboxes.find(named: "one", in: tenant.organization)
                #expect(started?.state == .started)
                let isWritten = try await database.owner.sandboxes.apply(
                    .destroy,
                    to: made.id,
                    in: tenant.organization,
                    generation: started?.generation,
                    by: Actor("test")
                )
                #expect(isWritten)
                #expect(try await database.owner.sandboxes.find(made.id, in: tenant.organization)?.state == .destroying)
                #expect(try await runner.release(made.id))
                #expect(try await database.owner.sandboxes.find(made.id, in: tenant.organization) == nil)
                let actors = try await database.owner.query(
                    "SELECT DISTINCT actor FROM event WHERE kind = 'sandbox.desired-state.updated'"
                )
                #expect(try actors.map { try $0.decode("actor", as: String.self) } == ["test"])
            }
        }
    }
}
