import Domain
import Postgres
import Store
import TestSupport
import Testing

@testable import API

/// The routes that give tokens for SSH, and take them back.
@Suite struct SSHAccessTests {
    @Test func aTokenIsGivenCheckedAndTakenBack() async throws {
        try await TestAPI.with({ $0.sshGateway = SSHGatewayAddress(host: "ssh.example.com", port: 22) }) { api in
            let id = try await api.database.makeSandbox(of: api.tenant, name: "box").id.description
            let path = "/api/sandbox/box/ssh-access"
            let made = try await api.send("POST", path)
            #expect(made.status == 200 && made["sandboxId"].text == id, "\(made.text)")
            let token = made["token"].text
            #expect(SSHToken(token) != nil)
            #expect(made["sshCommand"].text == "ssh \(token)@ssh.example.com")
            #expect(["id", "createdAt", "updatedAt", "expiresAt"].allSatisfy { made[$0] != .null })
            func validate(_ token: String) async throws -> (JSONValue, String) {
                let answer = try await api.send("GET", "/api/sandbox/ssh-access/validate?token=\(token)")
                #expect(answer.status == 200, "\(answer.text)")
                return (answer["valid"], answer["sandboxId"].text)
            }
            #expect(try await validate(token) == (.bool(true), id))
            #expect(try await validate("nonsense") == (.bool(false), ""), "a text even then")
            #expect(try await validate(SSHToken.random().text) == (.bool(false), ""))

            let second = try await api.send("POST", "\(path)?expiresInMinutes=5")["token"].text
            #expect(try await validate(token) == (.bool(false), ""), "the new one took its place")
            let revoked = try await api.send("DELETE", "\(path)?token=nonsense")
            #expect(revoked.status == 200 && revoked["id"].text == id, "a sandbox: \(revoked.text)")
            #expect(try await validate(second) == (.bool(true), id))
            #expect(try await api.send("DELETE", "\(path)?token=\(second)")["id"].text == id)
            #expect(try await validate(second) == (.bool(false), ""))
            let third = try await api.send("POST", path)["token"].text
            #expect(try await api.send("DELETE", path).status == 200, "without a token: all")
            #expect(try await validate(third) == (.bool(false), ""))
        }
    }

    @Test func wrongQueriesAreNamed() async throws {
        try await TestAPI.with { api in
            try await api.database.makeSandbox(of: api.tenant, name: "box")
            for minutes in ["0", "-1", "43201", "1.5", "x", ""] {
                let answer = try await api.send("POST", "/api/sandbox/box/ssh-access?expiresInMinutes=\(minutes)")
                #expect(
                    answer.status == 400 && answer.message.contains("expiresInMinutes"),
                    "\(minutes): \(answer.text)"
                )
            }
            let path = "/api/sandbox/ssh-access/validate"
            for query in ["", "?token="] { #expect(try await api.send("GET", path + query).status == 400) }
            #expect(try await api.send("DELETE", "/api/sandbox/box/ssh-access?token=").status == 400)
            #expect(try await api.send("POST", "/api/sandbox/none/ssh-access").status == 404)
            try await api.database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed'")
            #expect(try await api.send("POST", "/api/sandbox/box/ssh-access").status == 404)
        }
    }

    @Test func theCommandNamesAPortThatIsNotSSHs() {
        let token = SSHToken.random()
        let address = SSHGatewayAddress(host: "127.0.0.1", port: 3989)
        #expect(address.command(for: token) == "ssh -p 3989 \(token.text)@127.0.0.1")
    }
}
