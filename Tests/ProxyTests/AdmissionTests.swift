import Crypto
import Domain
import Foundation
import NIOCore
import Store
import Synchronization
import Testing

@testable import Proxy

/// Who gets through, and how soon a change of that is felt.
@Suite(.timeLimit(.minutes(5)))
struct AdmissionTests {
    @Test func onlyAKeyOfTheOrganizationOpensASandbox() async throws {
        try await TestPath.with { path in
            func status(_ authorization: String?, sandbox: String? = nil) async throws -> Message {
                let field = authorization.map { "Authorization: \($0)\r\n" } ?? ""
                return try await path.fetch(
                    "GET /toolbox/\(sandbox ?? "\(path.sandbox)")/x HTTP/1.1\r\nHost: x\r\n\(field)\r\n"
                )
            }
            for credential in [
                nil, "Basic \(path.key)", "Bearer", "Bearer ", "Bearer mrt_unknown", path.key,
                "Bearer \(path.key) x", "Bearer \(String(repeating: "k", count: 600))",
            ] {
                let answer = try await status(credential)
                #expect(answer.status == 401, "\(credential ?? "nothing")")
                #expect(answer["www-authenticate"] == "Bearer")
            }
            let unknown = try await status("Bearer \(path.key)", sandbox: "\(SandboxID.random())")
            path.updateRoute { $0.organization = .random() }
            let foreign = try await status("Bearer \(path.key)")
            #expect(unknown.status == 404)
            #expect(foreign.status == 404)
            #expect(try Self.message(unknown) == Self.message(foreign))
        }
    }

    private static func message(_ answer: Message) throws -> String? {
        try JSONDecoder().decode([String: Value].self, from: Data(answer.body.utf8))["message"]?.text
    }

    private struct Value: Decodable {
        var text: String?
        init(from decoder: any Decoder) throws { text = try? decoder.singleValueContainer().decode(String.self) }
    }

    @Test func aSandboxThatIsNotStartedIsRefusedWithAdviceAndFoundStartedAtOnce() async throws {
        try await TestPath.with { path in
            path.updateRoute { $0.state = "stopped" }
            let refusal = try await path.fetch(path.request("GET", "/"))
            #expect(refusal.status == 409)
            #expect(refusal.body.contains("is stopped, not started; start it first"))
            path.updateRoute { $0.state = "started" }
            let answer = try await path.run { server in
                _ = try await server.readMessage()
                try await server.answer()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                return try await client.readMessage()
            }
            #expect(answer.status == 200)
        }
    }

    @Test func aRevokedKeyLeavesTheCacheAtOnce() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                for _ in 0..<2 {
                    _ = try await server.readMessage()
                    try await server.answer()
                }
            } client: { client in
                let hash = Array(SHA256.hash(data: Array(path.key.utf8)))
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().status == 200)
                path.routes.state.withLock { _ = $0.grants.removeValue(forKey: hash) }
                // The control: without the notification the cache still answers.
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().status == 200)
                path.routes.notify(.key(KeyTag(of: hash)))
                try await eventually {
                    try await path.fetch(
                        "GET /toolbox/\(SandboxID.random())/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \(path.key)\r\n\r\n"
                    ).status == 401
                }
            }
        }
    }

    @Test func aChangedRouteIsReadAgainAfterItsNotification() async throws {
        for change in [RouteChange.sandbox(.random()), .resync] {
            try await TestPath.with { path in
                try await path.run { server in
                    _ = try await server.readMessage()
                    try await server.answer()
                } client: { client in
                    try await client.send(path.request("GET", "/"))
                    #expect(try await client.readMessage().status == 200)
                }
                path.updateRoute { $0.state = "stopping" }
                path.routes.notify(change == .resync ? .resync : .sandbox(path.sandbox))
                try await eventually { try await path.fetch(path.request("GET", "/")).status == 409 }
            }
        }
    }

    @Test func aKeyThatExpiresWhileItIsCachedIsRefused() async throws {
        try await TestPath.with { path in
            let hash = Array(SHA256.hash(data: Array(path.key.utf8)))
            path.routes.state.withLock { $0.grants[hash]?.expiresAt = Date(timeIntervalSinceNow: -1) }
            let answer = try await path.fetch(path.request("GET", "/"))
            #expect(answer.status == 401)
        }
    }

    // MARK: Signed file URLs (WIRE-CONTRACT 5.6)

    private static func signed(
        _ method: String,
        _ route: String,
        path: String,
        expires: Int64,
        key: String = "signing-key",
        query: String = ""
    ) -> String {
        let message = Array("v1:files:\(method):\(path):\(expires)".utf8)
        let code = Data(HMAC<SHA256>.authenticationCode(for: message, using: SymmetricKey(data: Array(key.utf8))))
        let signature = code.base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing(
            "=",
            with: ""
        )
        let encoded = path.addingPercentEncoding(withAllowedCharacters: .alphanumerics)!.replacing("%20", with: "+")
        return "\(route)?path=\(encoded)&expires=\(expires)&signature=v1_\(signature)\(query)"
    }

    @Test func aSignedURLOpensTheTwoFileOperations() async throws {
        try await TestPath.with { path in
            for (method, route, expires) in [
                ("GET", "/files/download", Int64(Date().timeIntervalSince1970) + 60),
                ("POST", "/files/upload-v2", 0),
            ] {
                let target = Self.signed(method, route, path: "/home/ä b+c%.txt", expires: expires)
                try await path.run { server in
                    #expect(try await server.readMessage().firstLine == "\(method) \(target) HTTP/1.1")
                    try await server.answer()
                } client: { client in
                    try await client.send(
                        "\(method) /toolbox/\(path.sandbox)\(target) HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                    #expect(try await client.readMessage().status == 200)
                }
                path.routes.notify(.resync)
            }
        }
    }

    @Test func noOtherSignatureOpensAnything() async throws {
        try await TestPath.with { path in
            let now = Int64(Date().timeIntervalSince1970)
            func refused(_ method: String, _ target: String) async throws {
                let answer = try await path.fetch(
                    "\(method) /toolbox/\(path.sandbox)\(target) HTTP/1.1\r\nHost: x\r\n\r\n"
                )
                #expect(answer.status == 401, "\(method) \(target)")
            }
            let good = Self.signed("GET", "/files/download", path: "/a", expires: now + 60)
            try await refused("POST", good)
            try await refused("GET", Self.signed("POST", "/files/download", path: "/a", expires: now + 60))
            try await refused("GET", Self.signed("GET", "/files/download", path: "/a", expires: now - 1))
            try await refused("GET", Self.signed("GET", "/files/download", path: "/a", expires: now + 60, key: "other"))
            try await refused("GET", Self.signed("GET", "/files/info", path: "/a", expires: now + 60))
            try await refused("DELETE", Self.signed("DELETE", "/files/download", path: "/a", expires: now + 60))
            try await refused("GET", good.replacing("path=%2Fa", with: "path=%2Fb"))
            try await refused("GET", good + "&path=%2Fb")
            try await refused("GET", good + "&p%61th=%2Fb")
            try await refused("GET", good.replacing("expires=", with: "expires=0"))
            try await refused("GET", String(good.dropLast()))
            path.updateRoute { $0.signingKey = "rotated" }
            path.routes.notify(.sandbox(path.sandbox))
            try await eventually {
                try await path.fetch("GET /toolbox/\(path.sandbox)\(good) HTTP/1.1\r\nHost: x\r\n\r\n").status == 401
            }
        }
    }
}

/// Asks until it is so, for at most a minute.
func eventually(
    _ what: String = "",
    sourceLocation: SourceLocation = #_sourceLocation,
    _ condition: () async throws -> Bool
) async throws {
    let deadline = NIODeadline.now() + .seconds(60)
    while NIODeadline.now() < deadline {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(10))
    }
    Issue.record("not within 60 s: \(what)", sourceLocation: sourceLocation)
}
