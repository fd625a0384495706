import Domain
import HTTPTypes
import Postgres
import Store
import TestSupport
import Testing

@testable import API

@Suite struct AccessTests {
    /// Every operation there is, without a key, with nonsense and with an expired key.
    @Test func everyRouteWantsAKey() async throws {
        try await TestAPI.with({ $0.limits.failedAuthenticationLimit = 100_000 }) { api in
            let expired = try await makeKey(api, "expired", ["*"])
            try await api.database.owner.execute(
                "UPDATE api_key SET expires_at = now() - interval '1 second' WHERE name = 'expired'"
            )
            for route in api.routes where route.access != .open {
                let path = "/api" + route.pattern.filled(with: "00000000-0000-4000-8000-000000000000")
                for key in [
                    TestAPI.Credential.none, .raw("Bearer nonsense"), .raw("Basic eA=="), .secret(.random()),
                    .secret(expired),
                ] {
                    let answer = try await api.send(route.method.rawValue, path, key: key)
                    #expect(answer.status == 401, "\(route.method) \(path): \(answer.text)")
                }
            }
            for path in ["/api/health", "/api/health/ready", "/api/config"] {
                #expect(try await api.send("GET", path, key: .none).status == 200)
            }
        }
    }

    /// The database tells by a part of its hash which key left; it leaves the cache, and no other does.
    @Test func aKeyThatIsRevokedInTheDatabaseIsRefusedAtOnce() async throws {
        try await TestAPI.with({ $0.limits.keyCacheLifetime = .seconds(600) }) { api in
            let key = try await makeKey(api, "short-lived", ["*"])
            #expect(try await api.send("GET", "/api/sandbox", key: .secret(key)).status == 200)
            try await api.database.owner.execute("DELETE FROM api_key WHERE name = 'short-lived'")
            try await poll { try await api.send("GET", "/api/sandbox", key: .secret(key)).status == 401 }
            #expect(try await api.send("GET", "/api/sandbox").status == 200)
        }
    }

    /// A key without permissions reads, and changes nothing.
    @Test func permissionsAreAsked() async throws {
        try await TestAPI.with { api in
            let reader = try await makeKey(api, "reader", [])
            let writer = try await makeKey(api, "writer", ["write:sandboxes"])
            let sandbox = try await api.database.makeSandbox(of: api.tenant)
            for route in api.routes {
                guard case .permission(let permission) = route.access else { continue }
                let path = "/api" + route.pattern.filled(with: sandbox.id.description)
                let answer = try await api.send(route.method.rawValue, path, key: .secret(reader), json: "{}")
                #expect(answer.status == 403, "\(route.operation): \(answer.text)")
                #expect(answer.message.contains(permission.rawValue))
            }
            #expect(try await api.send("GET", "/api/sandbox/\(sandbox.id)", key: .secret(reader)).status == 200)
            #expect(
                try await api.send(
                    "PUT",
                    "/api/sandbox/\(sandbox.id)/labels",
                    key: .secret(writer),
                    json: #"{"labels":{"a":"b"}}"#
                ).status == 200
            )
            #expect(try await api.send("DELETE", "/api/sandbox/\(sandbox.id)", key: .secret(writer)).status == 403)
        }
    }

    /// Somebody else's sandbox is not there, whatever is asked of it.
    @Test func everySandboxRouteHidesOtherTenants() async throws {
        try await TestAPI.with { api in
            let stranger = try await api.database.makeTenant("stranger")
            let sandbox = try await api.database.makeSandbox(of: api.tenant, name: "hidden")
            let bodies = ["replace_labels": #"{"labels":{}}"#, "create_sandbox_snapshot": #"{"name":"x"}"#]
            for route in api.routes where route.pattern.hasPrefix("/sandbox/{id}") {
                for name in [sandbox.id.description, "hidden"] {
                    let path = "/api" + route.pattern.filled(with: name)
                    let json = bodies[route.operation] ?? "{}"
                    let answer = try await api.send(route.method.rawValue, path, key: .secret(stranger.key), json: json)
                    #expect(answer.status == 404, "\(route.operation): \(answer.text)")
                    #expect(!answer.text.contains("hidden\",\"org"))
                }
            }
            #expect(try await api.send("GET", "/api/sandbox", key: .secret(stranger.key))["items"].items.isEmpty)
            #expect(
                try await api.send("GET", "/api/organizations/\(api.tenant.organization)", key: .secret(stranger.key))
                    .status == 404
            )
            #expect(
                try await api.send(
                    "GET",
                    "/api/organizations/\(api.tenant.organization)/usage",
                    key: .secret(stranger.key)
                ).status == 404
            )
            #expect(
                try await api.send("DELETE", "/api/api-keys/\(api.tenant.user)/test", key: .secret(stranger.key)).status
                    == 404
            )
            #expect(try await api.send("GET", "/api/sandbox/hidden").status == 200, "the control")
        }
    }

    @Test func keysAreMadeListedAndRevokedAtOnce() async throws {
        try await TestAPI.with { api in
            let made = try await api.send(
                "POST",
                "/api/api-keys",
                json: #"{"name":"ci/1","permissions":["write:sandboxes"]}"#
            )
            #expect(made.status == 201, "\(made.text)")
            let secret = APIKeySecret(made["value"].text)!
            #expect(
                try await api.send("POST", "/api/api-keys", json: #"{"name":"ci/1","permissions":[]}"#).status == 409
            )
            let listed = try await api.send("GET", "/api/api-keys")
            #expect(listed.json.items.count == 2)
            #expect(!listed.text.contains(secret.text))
            #expect(try await api.send("GET", "/api/api-keys/ci%2F1")["name"] == "ci/1")
            #expect(try await api.send("GET", "/api/api-keys/current", key: .secret(secret))["name"] == "ci/1")
            #expect(try await api.send("GET", "/api/sandbox", key: .secret(secret)).status == 200)
            #expect(try await api.send("DELETE", "/api/api-keys/ci%2F1").status == 204)
            #expect(try await api.send("GET", "/api/sandbox", key: .secret(secret)).status == 401)
            #expect(try await api.send("DELETE", "/api/api-keys/ci%2F1").status == 404)
        }
    }

    /// Revoked by SQL, as by another API: the notification drops it from the cache.
    @Test func aKeyRevokedElsewhereIsGoneWithinAMoment() async throws {
        try await TestAPI.with({ $0.limits.keyCacheLifetime = .seconds(3600) }) { api in
            let secret = try await makeKey(api, "short", ["*"])
            for _ in 0..<3 { #expect(try await api.send("GET", "/api/sandbox", key: .secret(secret)).status == 200) }
            try await api.database.owner.execute("DELETE FROM api_key WHERE name = 'short'")
            let deadline = ContinuousClock.now + .seconds(60)
            while try await api.send("GET", "/api/sandbox", key: .secret(secret)).status == 200, .now < deadline {}
            #expect(try await api.send("GET", "/api/sandbox", key: .secret(secret)).status == 401)
        }
    }

    @Test func aKeyGivesNoMoreThanItHas() async throws {
        try await TestAPI.with { api in
            let writer = try await makeKey(api, "writer", ["write:sandboxes"])
            for permissions in [#"["delete:sandboxes"]"#, #"["*"]"#, #"["write:sandboxes","write:runners"]"#] {
                let answer = try await api.send(
                    "POST",
                    "/api/api-keys",
                    key: .secret(writer),
                    json: #"{"name":"x","permissions":\#(permissions)}"#
                )
                #expect(answer.status == 403, "\(permissions): \(answer.text)")
            }
            let same = try await api.send(
                "POST",
                "/api/api-keys",
                key: .secret(writer),
                json: #"{"name":"x","permissions":["write:sandboxes"]}"#
            )
            #expect(same.status == 201)
            for body in [
                #"{"permissions":[]}"#, #"{"name":"y","permissions":["fly:planes"]}"#,
                #"{"name":"y","expiresAt":"2020-01-01T00:00:00Z"}"#,
            ] {
                #expect(try await api.send("POST", "/api/api-keys", json: body).status == 400, "\(body)")
            }
        }
    }

    @Test func theUseOfAKeyIsNoted() async throws {
        try await TestAPI.with({ $0.limits.keyUseInterval = .milliseconds(20) }) { api in
            #expect(try await api.send("GET", "/api/api-keys/current").status == 200)
            try await poll { try await api.send("GET", "/api/api-keys").json.items[0]["lastUsedAt"] != .null }
        }
    }

    @Test func guessingIsSlowedDownAndValidKeysAreNot() async throws {
        try await TestAPI.with({ $0.limits.failedAuthenticationLimit = 5 }) { api in
            #expect(try await api.send("GET", "/api/sandbox").status == 200)
            var statuses: [Int] = []
            for _ in 0..<7 {
                statuses.append(try await api.send("GET", "/api/sandbox", key: .secret(.random())).status)
            }
            #expect(statuses == [401, 401, 401, 401, 401, 429, 429])
            #expect(try await api.send("GET", "/api/sandbox").status == 200)
            // Never seen before, and from the very address that everybody behind one proxy shares.
            let fresh = try await makeKey(api, "fresh", [])
            #expect(try await api.send("GET", "/api/sandbox", key: .secret(fresh)).status == 200)
        }
    }

    private func makeKey(_ api: TestAPI, _ name: String, _ permissions: [String]) async throws -> APIKeySecret {
        try await Bootstrap(api.database.owner).createAPIKey(
            organization: api.tenant.organization,
            user: api.tenant.user,
            name: name,
            permissions: permissions
        )
    }
}

extension String {
    /// A pattern with its first parameter filled in, and all others with 1.
    func filled(with value: String) -> String {
        var isFirst = true
        return split(separator: "/", omittingEmptySubsequences: false).map { segment -> String in
            guard segment.hasPrefix("{") else { return String(segment) }
            defer { isFirst = false }
            if ["{isPublic}", "{isOn}"].contains(segment) { return "true" }
            return isFirst ? value : "1"
        }.joined(separator: "/")
    }
}
