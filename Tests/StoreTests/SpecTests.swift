import Domain
import Postgres
import TestSupport
import Testing

@testable import Store

@Suite struct SpecTests {
    @Test func whatARunnerMustActOnBumpsTheGeneration() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let one = try await database.makeSandbox(of: tenant)
            func generation(after change: SandboxChange) async throws -> Int64 {
                _ = try await database.owner.sandboxes.apply(
                    change,
                    to: one.id,
                    in: tenant.organization,
                    by: Actor("test")
                )
                return try await database.owner.sandboxes.find(one.id, in: tenant.organization)!.generation
            }
            #expect(try await generation(after: .labels(["a": "b"])) == 1)
            #expect(try await generation(after: .isPublic(true)) == 1)
            #expect(try await generation(after: .autoStop(minutes: 3)) == 1)
            #expect(try await generation(after: .timeToLive(minutes: 3)) == 1)
            #expect(try await generation(after: .stop(force: false)) == 2)
            #expect(try await generation(after: .stop(force: false)) == 2, "nothing changed")
            #expect(try await generation(after: .start) == 3)
            #expect(try await generation(after: .network(blockAll: true, allowList: nil)) == 4)
            #expect(try await generation(after: .resize(cpu: 2, memoryGib: 2, diskGib: 3)) == 5)
            #expect(try await generation(after: .recover) == 6)
        }
    }

    /// A setting that is only told to the daemon is no reason to try again what failed.
    @Test func recordingLeavesTheGenerationAndIsReportedOnceTold() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let one = try await database.makeSandbox(of: tenant)
                let (sandboxes, queries) = (database.owner.sandboxes, RunnerQueries(runner.pool))
                for records in [true, false] {
                    _ = try await sandboxes.apply(
                        .recordsTerminals(records),
                        to: one.id,
                        in: tenant.organization,
                        by: Actor("test")
                    )
                    let asked = try #require(await sandboxes.find(one.id, in: tenant.organization))
                    #expect(asked.recordsTerminals == records && asked.isToldToRecord != records)
                    #expect(asked.generation == one.generation)
                    let assigned = try #require(await queries.sandbox(one.id))
                    #expect(assigned.recordsTerminals == records)
                    var report = SandboxReport(.started)
                    report.effective = assigned.reported.effective
                    report.effective?.recordsTerminals = records
                    #expect(try await queries.report(report, of: one.id, epoch: assigned.epoch))
                    #expect(try await sandboxes.find(one.id, in: tenant.organization)?.isToldToRecord == records)
                }
                let events = try await database.owner.query(
                    "SELECT cause FROM event WHERE kind = 'sandbox.terminal-recording.updated' AND actor = 'test' ORDER BY id"
                ).map { try $0.decode("cause", as: String.self) }
                #expect(events == ["recorded", "not recorded"].map { "terminals opened from now on are \($0)" })
            }
        }
    }

    @Test func aChangeDecidedOnAnOldGenerationIsNotWritten() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let one = try await database.makeSandbox(of: tenant)
            let sandboxes = database.owner.sandboxes
            func stop(_ generation: Int64) async throws -> Bool {
                try await sandboxes.apply(
                    .stop(force: false),
                    to: one.id,
                    in: tenant.organization,
                    generation: generation,
                    by: Actor("test")
                )
            }
            #expect(try await stop(one.generation))
            #expect(try await stop(one.generation) == false)
            let other = try await database.makeTenant("other")
            let isWritten = try await sandboxes.apply(.destroy, to: one.id, in: other.organization, by: Actor("test"))
            #expect(!isWritten, "a stranger's sandbox")
        }
    }

    @Test func destroyedIsFinalAndFreesTheName() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let one = try await database.makeSandbox(of: tenant, name: "x")
            let taken = await #expect(throws: PostgresError.self) {
                try await database.makeSandbox(of: tenant, name: "x")
            }
            #expect(taken.map { StoreError($0).code } == .nameTaken)
            _ = try await database.owner.sandboxes.apply(
                .destroy,
                to: one.id,
                in: tenant.organization,
                by: Actor("test")
            )
            let final = await #expect(throws: PostgresError.self) {
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'started'")
            }
            #expect(final?.constraint == "destroyed_is_final")
            try await database.makeSandbox(of: tenant, name: "x")
        }
    }

    /// Readers decode labels and environment as texts: one number, written in psql, would break every list that meets it.
    @Test func labelsAndEnvironmentAreTexts() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.makeSandbox(of: tenant) { $0.labels = ["a": "b"] }
            for column in ["labels", "env"] {
                let values = [
                    #"{"n": 1}"#, #"{"a": "b", "c": null}"#, #"{"a": ["b"]}"#, #"{"a": []}"#, #"{"a": {}}"#, #"["a"]"#,
                    #""a""#,
                ]
                for value in values {
                    let error = await #expect(throws: PostgresError.self, "\(column) \(value)") {
                        try await database.owner.execute(
                            "UPDATE sandbox SET \(identifier: column) = \(value)::text::jsonb"
                        )
                    }
                    #expect(error?.constraint == "\(column)_is_an_object_of_texts")
                }
                for value in ["{}", #"{"a": "1", "b": ""}"#] {
                    try await database.owner.execute("UPDATE sandbox SET \(identifier: column) = \(value)::text::jsonb")
                }
            }
        }
    }

    /// An operator left a transaction open in psql: who needs what it changed is told to try again, and soon.
    @Test func anOpenTransactionHoldsNobodyUpForLong() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let one = try await database.makeSandbox(of: tenant)
            var configuration = try await database.configuration(for: .api)
            configuration.lockDeadline = .milliseconds(200)
            let api = PostgresPool(configuration, limits: .init(connectionLimit: 1), logger: TestStack.logger)
            try await TestDatabase.withRunning(api) {
                try await database.owner.withTransaction { transaction in
                    try await transaction.execute("UPDATE sandbox SET public = true")
                    let error = await #expect(throws: PostgresError.self) {
                        _ = try await api.sandboxes.apply(
                            .stop(force: false),
                            to: one.id,
                            in: tenant.organization,
                            by: Actor("test")
                        )
                    }
                    #expect(error?.code == .lockNotAvailable)
                    #expect(error.map { StoreError($0).code } == .unavailable)
                }
                #expect(try await api.sandboxes.find(one.id, in: tenant.organization)?.isPublic == true)
            }
        }
    }

    @Test func illegalReportsAreRefused() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let one = try await database.makeSandbox(of: tenant)
                let illegal = await #expect(throws: PostgresError.self) { try await runner.report(one.id, .resizing) }
                #expect(illegal?.constraint == "status_transition_is_legal")
                let silent = await #expect(throws: PostgresError.self) { try await runner.report(one.id, .error) }
                #expect(silent?.constraint == "error_has_a_reason")
                #expect(try await runner.report(one.id, .error, error: "no such image"))
            }
        }
    }

    @Test func expiredRevokedAndSuspendedKeysAreNotValid() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withPool(of: .api) { api in
                #expect(try await api.apiKeys.authorize(hash: tenant.key.hash)?.name == "test")
                try await database.owner.execute("UPDATE api_key SET expires_at = now() - interval '1 second'")
                #expect(try await api.apiKeys.authorize(hash: tenant.key.hash) == nil)
                try await database.owner.execute("UPDATE api_key SET expires_at = NULL")
                try await database.owner.execute("UPDATE organization SET suspended = true")
                #expect(try await api.apiKeys.authorize(hash: tenant.key.hash) == nil)
                try await database.owner.execute("UPDATE organization SET suspended = false")
                let key = try #require(
                    await api.apiKeys.find(named: "test", in: tenant.organization, of: tenant.user)
                )
                #expect(try await api.apiKeys.delete(key.id) == tenant.key.hash)
                #expect(try await api.apiKeys.delete(key.id) == nil)
                #expect(try await api.apiKeys.authorize(hash: tenant.key.hash) == nil)
            }
        }
    }
}

@Suite struct SecretTests {
    @Test func secretsAreReadBackAndNonsenseIsNot() {
        let secret = APIKeySecret.random()
        #expect(APIKeySecret(secret.text) == secret)
        #expect(secret.text.count == 47)
        #expect(secret.hash.count == 32)
        #expect(!"\(secret)".contains(secret.text))
        for bad in [
            "", "mrt_", secret.text + "a", "abc_" + secret.text.dropFirst(4), secret.text.dropLast() + "é",
            secret.text.dropLast() + " ",
        ] {
            #expect(APIKeySecret(bad) == nil, "\(bad)")
        }
    }
}
