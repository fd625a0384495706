import Domain
import Postgres
import Store
import TestSupport
import Testing

@testable import API

@Suite struct SnapshotTests {
    static let digest = "sha256:" + String(repeating: "0a", count: 32)

    static let badBodies: [(String, Int, [String])] = [
        ("{}", 400, ["name"]),
        (#"{"name":"a"}"#, 400, ["imageName is missing"]),
        (#"{"name":"","imageName":"a:1"}"#, 400, ["name"]),
        (#"{"name":"a","imageName":7}"#, 400, ["imageName", "string"]),
        (#"{"name":"a","imageName":"A:1"}"#, 400, ["imageName 'A:1'"]),
        (#"{"name":"a","imageName":"busybox"}"#, 400, ["busybox", "tag"]),
        (#"{"name":"a","imageName":"busybox:latest"}"#, 400, ["latest"]),
        (#"{"name":"a","imageName":"a@sha256:00"}"#, 400, ["digest"]),
        (#"{"name":"a","imageName":"127.0.0.1:5000/a:1"}"#, 400, ["127.0.0.1:5000", "private", "operator"]),
        (#"{"name":"a","imageName":"169.254.169.254/a:1"}"#, 400, ["169.254.169.254", "private"]),
        (#"{"name":"a","imageName":"registry.martlet.internal/snapshots/x:1"}"#, 400, ["private"]),
        (#"{"name":"a","imageName":"a:1","cpu":0}"#, 400, ["cpu is 0"]),
        (#"{"name":"a","imageName":"a:1","memory":257}"#, 400, ["memory", "256"]),
        (#"{"name":"a","imageName":"a:1","disk":1025}"#, 400, ["disk", "1024"]),
        (#"{"name":"a","imageName":"a:1","gpuType":["H99"]}"#, 400, ["H99"]),
        (#"{"name":"a","imageName":"a:1","gpuType":["H100","B200"]}"#, 400, ["2 kinds"]),
        (#"{"name":"a","imageName":"a:1","entrypoint":"sh"}"#, 400, ["entrypoint"]),
        (#"{"name":"a","imageName":"a:1","entrypoint":[""]}"#, 400, ["entrypoint"]),
        (#"{"name":"a","imageName":"a:1","sandboxClass":"windows"}"#, 400, ["sandboxClass", "container"]),
        (#"{"name":"a","imageName":"a:1","regionId":"mars"}"#, 404, ["mars", "test"]),
        (#"{"name":"a","imageName":"a:1","colour":"red"}"#, 400, ["colour"]),
        (#"{"name":"a","buildInfo":{"dockerfileContent":"RUN x"}}"#, 400, ["buildInfo", "line 1", "FROM"]),
        (#"{"name":"a","buildInfo":{"dockerfileContent":"FROM 10.0.0.1/x"}}"#, 400, ["buildInfo", "private"]),
        (
            #"{"name":"a","imageName":"a:1","buildInfo":{"dockerfileContent":"FROM x"}}"#, 400,
            ["imageName", "buildInfo"]
        ),
    ]

    @Test func everyBadFieldIsNamedAndNothingIsWritten() async throws {
        try await TestAPI.with { api in
            for (body, status, words) in Self.badBodies {
                let answer = try await api.send("POST", "/api/snapshots", json: body)
                #expect(answer.status == status, "\(body): \(answer.text)")
                for word in words { #expect(answer.message.contains(word), "\(body): \(answer.message)") }
                expectErrorShape(answer, "/api/snapshots")
            }
            #expect(try await api.send("GET", "/api/snapshots")["total"] == 1)
        }
    }

    @Test func isAskedForReadChangedAndDeleted() async throws {
        try await TestAPI.with { api in
            let made = try await api.send(
                "POST",
                "/api/snapshots",
                json: """
                    {"name":"org/img:1 a","imageName":"ghcr.io/a/b@\(Self.digest)","cpu":2,"memory":3,"disk":4,"regionId":"test",
                    "entrypoint":["sleep","1"],"sandboxClass":"container","gpu":0}
                    """
            )
            #expect(made.status == 200, "\(made.text)")
            #expect(made["state"] == "pending")
            #expect(made["mem"] == 3)
            #expect(made["regionIds"] == .array(["test"]))
            let id = made["id"].text
            let byName = try await api.send("GET", "/api/snapshots/org%2Fimg%3A1%20a")
            #expect(byName["id"].text == id)
            #expect(byName["imageName"].text == "ghcr.io/a/b@\(Self.digest)")
            let again = try await api.send("POST", "/api/snapshots", json: #"{"name":"org/img:1 a","imageName":"a:1"}"#)
            #expect(again.status == 409)
            let box = try await api.send("POST", "/api/sandbox", json: #"{"snapshot":"org/img:1 a"}"#)
            #expect(box.status == 400)
            #expect(box.message.contains("pending"))

            #expect(try await api.send("POST", "/api/snapshots/\(id)/deactivate").status == 400, "only an active one")
            try await api.database.owner.execute(
                "UPDATE snapshot SET state = 'error', error_reason = 'why' WHERE id = \(SnapshotID(id)!)"
            )
            #expect(try await api.send("GET", "/api/snapshots/\(id)")["errorReason"] == "why")
            let tried = try await api.send("POST", "/api/snapshots/\(id)/activate")
            #expect(tried.status == 200, "\(tried.text)")
            #expect(tried["state"] == "pending")
            #expect(tried["errorReason"] == .null)
            #expect(try await api.send("POST", "/api/snapshots/\(id)/activate").status == 200, "again is nothing new")
            try await api.database.owner.execute(
                "UPDATE snapshot SET image = 'a:1', state = 'active' WHERE id = \(SnapshotID(id)!)"
            )
            #expect(try await api.send("POST", "/api/snapshots/\(id)/deactivate").status == 204)
            #expect(try await api.send("POST", "/api/snapshots/\(id)/deactivate").status == 204)
            #expect(try await api.send("GET", "/api/snapshots/\(id)")["state"] == "inactive")
            #expect(try await api.send("DELETE", "/api/snapshots/\(id)").status == 200)
            #expect(try await api.send("DELETE", "/api/snapshots/\(id)").status == 404)
            #expect(try await api.send("GET", "/api/snapshots/\(id)").status == 404)
        }
    }

    @Test func whatIsEverybodysIsNobodysToChange() async throws {
        try await TestAPI.with { api in
            let id = try await api.send("GET", "/api/snapshots/default")["id"].text
            for (method, path) in [("DELETE", ""), ("POST", "/activate"), ("POST", "/deactivate")] {
                #expect(try await api.send(method, "/api/snapshots/\(id)\(path)").status == 403, "\(method) \(path)")
                #expect(try await api.send(method, "/api/snapshots/default\(path)").status == 404, "by id only")
                #expect(try await api.send(method, "/api/snapshots/\(SnapshotID.random())\(path)").status == 404)
            }
            #expect(try await api.send("GET", "/api/snapshots/default")["state"] == "active")
        }
    }

    @Test func aStrangersIsNotFound() async throws {
        try await TestAPI.with { api in
            let stranger = try await api.database.makeTenant("globex")
            let id = try await api.send("POST", "/api/snapshots", json: #"{"name":"mine","imageName":"a:1"}"#)["id"]
                .text
            for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/activate"), ("POST", "/deactivate")] {
                let answer = try await api.send(method, "/api/snapshots/\(id)\(path)", key: .secret(stranger.key))
                #expect(answer.status == 404, "\(method) \(path)")
            }
            #expect(try await api.send("GET", "/api/snapshots/mine", key: .secret(stranger.key)).status == 404)
            #expect(try await api.send("GET", "/api/snapshots/mine").status == 200)
        }
    }

    @Test func anOperatorOpensAPrivateHost() async throws {
        try await TestAPI.with { api in
            let body = #"{"name":"a","imageName":"127.0.0.1:5000/a:1"}"#
            #expect(try await api.send("POST", "/api/snapshots", json: body).status == 400)
            try await api.database.owner.execute(
                "INSERT INTO docker_registry (name, host) VALUES ('ours', '127.0.0.1:5000')"
            )
            #expect(try await api.send("POST", "/api/snapshots", json: body).status == 200)
            let other = #"{"name":"b","imageName":"127.0.0.1:5001/a:1"}"#
            #expect(try await api.send("POST", "/api/snapshots", json: other).status == 400, "that port and no other")
        }
    }
}

@Suite struct RegistryTests {
    private static let key = String(repeating: "5a", count: 32)
    private static let body =
        #"{"name":"hub","url":"https://registry.example:5000/","username":"u","password":"s3cr3t-w0rd","project":"team"}"#

    /// Of nobody, for a hundred years.
    private static let authority = """
        -----BEGIN CERTIFICATE-----
        MIIBhDCCASugAwIBAgIUJAmNDYxfHpHRuXlue+z69QUpzdcwCgYIKoZIzj0EAwIw
        FzEVMBMGA1UEAwwMYW4gYXV0aG9yaXR5MCAXDTI2MTEyNjA4MDcxNloYDzIxMjYx
        MTAyMDgwNzE2WjAXMRUwEwYDVQQDDAxhbiBhdXRob3JpdHkwWTATBgcqhkjOPQIB
        BggqhkjOPQMBBwNCAASDQei64U0bTMdJKqPEPrZZ6W/jaktgAX1jHEN5olKTLT/Q
        6K/F05Ei/eT+6XqoKpzaLK7Ie6rjukv1rHQtxiVGo1MwUTAdBgNVHQ4EFgQUmKhU
        PyMP8cDMEmTjEf0UQk20z5YwHwYDVR0jBBgwFoAUmKhUPyMP8cDMEmTjEf0UQk20
        z5YwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiAzh6V18vzL0Ey6
        BpSDshKNxJD8AS6idtCG1UYK66q7XgIgUJuF+kYd//ZyE99llScZwjCFvwoFvMJ0
        nYtTgp7OnAQ=
        -----END CERTIFICATE-----
        """

    private func with(_ body: @Sendable @escaping (TestAPI) async throws -> Void) async throws {
        let secrets = try SecretBox(hexKey: Self.key)
        try await TestAPI.with({ $0.secrets = secrets }, body)
    }

    @Test func isKeptWithoutEverShowingItsPassword() async throws {
        try await with { api in
            let made = try await api.send("POST", "/api/docker-registry", json: Self.body)
            #expect(made.status == 201, "\(made.text)")
            #expect(made["url"] == "registry.example:5000")
            #expect(made["project"] == "team")
            let path = "/api/docker-registry/\(made["id"].text)"
            var answers = [made, try await api.send("GET", path), try await api.send("GET", "/api/docker-registry")]
            answers.append(
                try await api.send(
                    "PATCH",
                    path,
                    json: #"{"name":"hub2","url":"registry.example:5000","username":"v"}"#
                )
            )
            #expect(answers[3].status == 200, "\(answers[3].text)")
            #expect(answers[3]["name"] == "hub2")
            for answer in answers { #expect(!answer.text.contains("s3cr3t") && !answer.text.contains("password")) }
            let row = try await api.database.owner.queryFirst("SELECT id, host, sealed_password FROM docker_registry")
            let sealed: [UInt8] = try #require(row)["sealed_password"]
            #expect(!String(decoding: sealed, as: UTF8.self).contains("s3cr3t"))
            let place = RegistryRecord.place(of: try #require(row)["id"], host: try #require(row)["host"])
            #expect(try SecretBox(hexKey: Self.key).open(SealedSecret(bytes: sealed), for: place) == "s3cr3t-w0rd")
            #expect(try await api.send("DELETE", path).status == 204)
            #expect(try await api.send("GET", path).status == 404)
        }
    }

    @Test func aPasswordIsNeverSentToAnotherHost() async throws {
        try await with { api in
            let id = try await api.send("POST", "/api/docker-registry", json: Self.body)["id"].text
            let moved = try await api.send(
                "PATCH",
                "/api/docker-registry/\(id)",
                json: #"{"name":"hub","url":"evil.example","username":"u"}"#
            )
            #expect(moved.status == 400)
            #expect(moved.message.contains("password"))
            #expect(try await api.send("GET", "/api/docker-registry/\(id)")["url"] == "registry.example:5000")
            let full = #"{"name":"hub","url":"other.example","username":"u","password":"another"}"#
            #expect(try await api.send("PATCH", "/api/docker-registry/\(id)", json: full)["url"] == "other.example")
        }
    }

    @Test func aTrustStaysUntilItIsNamedAgain() async throws {
        try await with { api in
            let certificate = Self.authority.replacing("\n", with: "\\n")
            func body(_ more: String) -> String { #"{"name":"own","url":"registry.example"\#(more)}"# }
            let made = try await api.send("POST", "/api/docker-registry", json: body(#","insecure":true"#))
            #expect(made.status == 201, "\(made.text)")
            #expect(made["insecure"] == .bool(true))
            let path = "/api/docker-registry/\(made["id"].text)"
            for (change, insecure, hasAuthority) in [
                ("", true, false),
                (#","caCertificate":"\#(certificate)""#, false, true),
                (#","insecure":false"#, false, true),
                (#","caCertificate":null"#, false, true),
                (#","insecure":true"#, true, false),
                (#","caCertificate":"\#(certificate)","insecure":false"#, false, true),
            ] {
                let now = try await api.send("PATCH", path, json: body(change))
                #expect(now.status == 200, "\(change): \(now.text)")
                #expect(now["insecure"] == .bool(insecure), "\(change)")
                #expect(now.text.contains("BEGIN CERTIFICATE") == hasAuthority, "\(change)")
            }
            let bare = try await api.send("PATCH", path, json: body(#","caCertificate":"""#))
            #expect(bare.status == 400, "nothing would be left to say")
            let login = #","caCertificate":"","username":"u","password":"p""#
            let known = try await api.send("PATCH", path, json: body(login))
            #expect(known.status == 200 && !known.text.contains("BEGIN CERTIFICATE"), "\(known.text)")
            let loosened = try await api.send("PATCH", path, json: body(#","username":"u","insecure":true"#))
            #expect(loosened.status == 400 && loosened.message.contains("password"), "\(loosened.text)")
            for more in [#","insecure":true"#, #","username":null,"insecure":true"#] {
                let forgotten = try await api.send("PATCH", path, json: body(more))
                #expect(forgotten.status == 400 && forgotten.message.contains("username"), "\(forgotten.text)")
            }
        }
    }

    @Test func everyBadFieldIsNamed() async throws {
        try await with { api in
            let cases: [(String, Int, [String])] = [
                ("{}", 400, ["name", "username"]),
                (#"{"name":"a","url":"x.example","username":"u"}"#, 400, ["password"]),
                (#"{"name":"a","url":"x.example","password":"p"}"#, 400, ["username"]),
                (#"{"name":"a","url":"x.example","caCertificate":"no PEM"}"#, 400, ["caCertificate", "PEM"]),
                (#"{"name":"a","url":"x.example","insecure":1}"#, 400, ["insecure"]),
                (
                    #"{"name":"a","url":"x.example","insecure":true,"caCertificate":"x"}"#, 400,
                    ["caCertificate", "insecure"]
                ),
                (
                    #"{"name":"a","url":"registry.example/path","username":"u","password":"p"}"#, 400,
                    ["url", "project"]
                ),
                (#"{"name":"a","url":"ftp://x","username":"u","password":"p"}"#, 400, ["url"]),
                (#"{"name":"a","url":"http://u:p@x","username":"u","password":"p"}"#, 400, ["url"]),
                (#"{"name":"a","url":"127.0.0.1:5000","username":"u","password":"p"}"#, 400, ["private"]),
                (#"{"name":"a","url":"x.example","username":"u:v","password":"p"}"#, 400, ["username"]),
                (#"{"name":"a","url":"x.example","username":"u","password":"p","project":"A B"}"#, 400, ["project"]),
                (#"{"name":"a","url":"x.example","username":"u","password":"p","extra":1}"#, 400, ["extra"]),
            ]
            for (body, status, words) in cases {
                let answer = try await api.send("POST", "/api/docker-registry", json: body)
                #expect(answer.status == status, "\(body): \(answer.text)")
                for word in words { #expect(answer.message.contains(word), "\(body): \(answer.message)") }
            }
            #expect(try await api.send("GET", "/api/docker-registry").json.items.isEmpty)
            #expect(try await api.send("POST", "/api/docker-registry", json: Self.body).status == 201)
            #expect(try await api.send("POST", "/api/docker-registry", json: Self.body).status == 409)
            #expect(try await api.send("GET", "/api/docker-registry/registry-push-access").status == 501)
            #expect(try await api.send("GET", "/api/docker-registry/nonsense").status == 404)
        }
    }

    @Test func aStrangersIsNotFound() async throws {
        try await with { api in
            let stranger = try await api.database.makeTenant("globex")
            let id = try await api.send("POST", "/api/docker-registry", json: Self.body)["id"].text
            for method in ["GET", "DELETE"] {
                #expect(
                    try await api.send(method, "/api/docker-registry/\(id)", key: .secret(stranger.key)).status == 404
                )
            }
            let patch = #"{"name":"x","url":"registry.example:5000","username":"u","password":"p"}"#
            #expect(
                try await api.send("PATCH", "/api/docker-registry/\(id)", key: .secret(stranger.key), json: patch)
                    .status == 404
            )
            #expect(try await api.send("GET", "/api/docker-registry", key: .secret(stranger.key)).json.items.isEmpty)
            #expect(try await api.send("GET", "/api/docker-registry/\(id)").status == 200)
        }
    }

    @Test func withoutAKeyNoPasswordIsTaken() async throws {
        try await TestAPI.with { api in
            let answer = try await api.send("POST", "/api/docker-registry", json: Self.body)
            #expect(answer.status == 501)
            #expect(answer.message.contains("MARTLET_SECRETS_KEY"))
        }
    }
}
