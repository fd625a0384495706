import Domain
import Postgres
import Store
import TestSupport
import Testing

/// The tables and the types of room Domain say the same.
@Suite struct DomainAgreementTests {
    @Test func transitionsAreTheSameInBoth() async throws {
        try await TestDatabase.with { database in
            for old in ObservedState.allCases {
                for new in ObservedState.allCases {
                    let row = try await database.owner.queryFirst("SELECT may_become(\(old), \(new)) AS may")
                    #expect(try row!["may"] == old.mayBecome(new), "\(old) to \(new)")
                }
            }
        }
    }

    @Test func statesOfTheChecksAreTheCases() async throws {
        try await TestDatabase.with { database in
            let observed = try await words(ofCheckOn: "state", of: "sandbox_status", database)
            #expect(observed == Set(ObservedState.allCases.map(\.rawValue)))
            let desired = try await words(ofCheckOn: "desired_state", of: "sandbox", database)
            #expect(desired == Set(DesiredState.allCases.map(\.rawValue)))
            let volumes = try await words(ofCheckOn: "state", of: "volume", database)
            #expect(volumes == Set(VolumeState.allCases.map(\.rawValue)))
            let wishes = try await words(ofCheckOn: "desired_state", of: "volume", database)
            #expect(wishes == Set(VolumeWish.allCases.map(\.rawValue)))
            let mounts = try await words(ofCheckOn: "state", of: "volume_mount", database)
            #expect(mounts == Set(VolumeMountState.allCases.map(\.rawValue)))
        }
    }

    @Test func statesOfTheViewAreKnownToClients() async throws {
        try await TestDatabase.with { database in
            let row = try await database.owner.queryFirst(
                """
                SELECT string_agg(pg_get_functiondef(name::regproc), '') AS body
                FROM unnest(ARRAY['public_state', 'state_with_image', 'waiting_state']) AS name
                """
            )
            let body: String = try row!["body"]
            for match in body.matches(of: /(?:THEN|ELSE) '([a-z_]+)'/) {
                #expect(PublicState(rawValue: String(match.1)) != nil, "\(match.1)")
            }
            for state in ObservedState.allCases { #expect(PublicState(rawValue: state.rawValue) != nil) }
        }
    }

    /// The words of the CHECK that is on this column alone.
    private func words(ofCheckOn column: String, of table: String, _ database: TestDatabase) async throws -> Set<String>
    {
        let row = try await database.owner.queryFirst(
            """
            SELECT pg_get_constraintdef(c.oid) AS text FROM pg_constraint c
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
            WHERE c.conrelid = \(table)::regclass AND c.contype = 'c' AND a.attname = \(column)
            """
        )
        let text: String = try row!["text"]
        return Set(text.matches(of: /'([a-z_]+)'/).map { String($0.1) })
    }
}
