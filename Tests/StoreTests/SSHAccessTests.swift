import Domain
import Postgres
import Store
import TestSupport
import Testing

/// Tokens for SSH, and whom they open to.
@Suite struct SSHAccessTests {
    @Test func tokensAreLettersAndDigitsAndHardToGuess() {
        var seen: Set<String> = []
        for _ in 0..<1000 {
            let token = SSHToken.random()
            #expect(token.text.utf8.count == 32 && token.text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber) })
            #expect(SSHToken(token.text) == token && token.hash.count == 32)
            #expect(!token.description.contains(token.text))
            seen.insert(token.text)
        }
        #expect(seen.count == 1000)
        for text in ["", "x", "root", String(repeating: "a", count: 33), String(repeating: "-", count: 32)] {
            #expect(SSHToken(text) == nil, "\(text)")
        }
        #expect(SSHToken(String(repeating: "a", count: 30) + "é") == nil, "32 bytes, but no digits")
    }

    @Test func aNewTokenTakesTheOldOnesPlace() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let sandbox = try await database.makeSandbox(of: tenant).id
            try await database.withPool(of: .api) { api in
                let access = api.sshAccess
                let (first, second) = (SSHToken.random(), SSHToken.random())
                func grant(_ token: SSHToken, _ organization: OrganizationID) async throws -> SSHAccessRecord? {
                    try await access.grant(token, to: sandbox, in: organization, minutes: 5, by: Actor("test"))
                }
                func opens(_ token: SSHToken) async throws -> SandboxID? {
                    try await access.sandbox(for: token.hash, in: tenant.organization)
                }
                let old = try await grant(first, tenant.organization)
                #expect(try await opens(first) == sandbox)
                #expect(try await access.sandbox(for: first.hash, in: .random()) == nil, "another's organization")
                #expect(try await grant(.random(), .random()) == nil, "another's sandbox")
                let new = try await grant(second, tenant.organization)
                #expect(old?.id != new?.id)
                #expect(try await opens(first) == nil)
                #expect(try await opens(second) == sandbox)
                try await access.revoke(first.hash, of: sandbox, in: tenant.organization, by: Actor("test"))
                #expect(try await opens(second) == sandbox, "it was not this one that was revoked")
                try await access.revoke(nil, of: sandbox, in: .random(), by: Actor("test"))
                #expect(try await opens(second) == sandbox, "nor by another organization")
                try await access.revoke(second.hash, of: sandbox, in: tenant.organization, by: Actor("test"))
                #expect(try await opens(second) == nil)
            }
            let kinds = try await database.owner.query(
                "SELECT kind FROM event WHERE subject_id = \(sandbox) AND kind LIKE 'sandbox.ssh-access.%' ORDER BY id"
            ).map { try $0.decode("kind", as: String.self).split(separator: ".").last.map(String.init) }
            #expect(kinds == ["granted", "revoked", "granted", "revoked"])
        }
    }

    @Test func whatHasExpiredOpensNothingAndGoes() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let sandbox = try await database.makeSandbox(of: tenant).id
            let token = SSHToken.random()
            let access = database.owner.sshAccess
            _ = try await access.grant(token, to: sandbox, in: tenant.organization, minutes: 5, by: Actor("test"))
            #expect(try await database.withPool(of: .api) { try await $0.sshAccess.purge() } == 0)
            try await database.owner.execute("UPDATE ssh_access SET expires_at = now()")
            #expect(try await access.sandbox(for: token.hash, in: tenant.organization) == nil)
            #expect(try await database.owner.query("SELECT FROM admit_ssh(\(token.hash))").isEmpty)
            #expect(try await database.withPool(of: .api) { try await $0.sshAccess.purge() } == 1)
        }
    }

    @Test func aGatewayLearnsOnlyWhatATokenOpens() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let sandbox = try await database.makeSandbox(of: tenant).id
                try await runner.report(sandbox, .started)
                let token = SSHToken.random()
                _ = try await database.owner.sshAccess
                    .grant(token, to: sandbox, in: tenant.organization, minutes: 5, by: Actor("test"))
                let configuration = try await database.configuration(for: .sshGateway)
                try await database.withPool(of: .sshGateway) { pool in
                    let source = DatabaseSSHAccess(pool, listeningWith: configuration, log: TestStack.logger)
                    let found = try #require(try await source.admission(tokenHash: token.hash))
                    #expect(found.sandbox == sandbox && found.state == .started && found.route?.epoch == 1)
                    #expect(found.timeLeft > .seconds(290) && found.timeLeft <= .seconds(300))
                    #expect(try await source.admission(tokenHash: SSHToken.random().hash) == nil)
                    try await source.reportActivity(of: [sandbox])
                    for table in [
                        "ssh_access", "sandbox", "route", "api_key", "event", "runner_status", "sandbox_status",
                    ] {
                        await expectDenied(pool, "SELECT * FROM \(identifier: table)")
                    }
                    await expectDenied(pool, "SELECT authorize_api_key('\\x00')")
                    await expectDenied(pool, "SELECT purge_ssh_access()")
                    await expectDenied(pool, "DELETE FROM ssh_access")
                }
                try await database.withRunner("other") { other in
                    await expectDenied(other.pool, "SELECT admit_ssh(\(token.hash))")
                }
            }
        }
    }

    @Test func changesAreHeard() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let sandbox = try await database.makeSandbox(of: tenant).id
            let made = try await database.owner.sshAccess
                .grant(.random(), to: sandbox, in: tenant.organization, minutes: 5, by: Actor("test"))
            let access = try #require(made)
            let configuration = try await database.configuration(for: .sshGateway)
            let (changes, heard) = AsyncStream<SSHAccessChange>.makeStream()
            let source = DatabaseSSHAccess(database.owner, listeningWith: configuration, log: TestStack.logger)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await source.followChanges { heard.yield($0) } }
                var rest = changes.makeAsyncIterator()
                #expect(await rest.next() == .resync)
                try await database.owner.execute("UPDATE ssh_access SET expires_at = now() + interval '1 hour'")
                #expect(await rest.next() == .access(access.id))
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'stopped'")
                #expect(await rest.next() == .sandbox(sandbox))
                try await database.owner.execute("UPDATE organization SET suspended = true")
                #expect(await rest.next() == .organization(tenant.organization))
                try await database.owner.execute("DELETE FROM ssh_access")
                #expect(await rest.next() == .access(access.id))
                group.cancelAll()
            }
        }
    }
}
