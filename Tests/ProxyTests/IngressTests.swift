import Crypto
import Domain
import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import Runner
import Synchronization
import Testing

/// The runner's door, asked directly: what it takes, and that it takes nothing else.
@Suite(.timeLimit(.minutes(5)))
struct IngressTests {
    /// A CONNECT whose every part can be wrong.
    struct Ask: Sendable {
        var authority: String?
        var host: String?
        var signedPort = "2280"
        var signedSandbox: SandboxID?
        var epoch = "1"
        var signedEpoch: String?
        var lifetime: Int64 = 30
        var secret: [UInt8]?
        var line: String?
        var extra = ""
        var mac: (@Sendable (String) -> String) = { $0 }

        func head(_ path: TestPath) -> String {
            let authority = authority ?? "\(path.sandbox):2280"
            let expires = Int64(Date().timeIntervalSince1970) + lifetime
            let message = "v1:\(signedSandbox ?? path.sandbox):\(signedPort):\(signedEpoch ?? epoch):\(expires)"
            let code = HMAC<SHA256>.authenticationCode(
                for: Array(message.utf8),
                using: SymmetricKey(data: secret ?? path.secret)
            )
            let hex = mac(code.map { String(format: "%02x", $0) }.joined())
            return "\(line ?? "CONNECT \(authority) HTTP/1.1")\r\nHost: \(host ?? authority)\r\n"
                + "Proxy-Authorization: Martlet v1.\(expires).\(hex)\r\nX-Martlet-Epoch: \(epoch)\r\n\(extra)\r\n"
        }
    }

    static func connect<Value: Sendable>(
        _ path: TestPath,
        _ body: @Sendable (Wire) async throws -> Value
    ) async throws -> Value {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateVerification = .none
        let tls = try NIOSSLContext(configuration: configuration)
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .connect(to: path.ingress) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        NIOSSLClientHandler(context: tls, serverHostname: nil)
                    )
                    return try Wire.wrap(channel)
                }
            }
        return try await Wire.use(channel, body)
    }

    private static func status(_ path: TestPath, _ ask: Ask) async throws -> Int {
        let head = ask.head(path)
        return try await connect(path) { wire in
            try await wire.send(head)
            return Message(head: try await wire.readHead()).status
        }
    }

    private static func expect(
        _ expected: Int,
        _ path: TestPath,
        _ ask: Ask,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        let actual = try await status(path, ask)
        #expect(actual == expected, "\(ask)", sourceLocation: sourceLocation)
    }

    @Test func onlyTheRightTokenOpensATunnel() async throws {
        try await TestPath.with { path in
            let other = SandboxID.random()
            let asks: [(Int, Ask)] = [
                (200, Ask()),
                (403, Ask(secret: Array(repeating: 0, count: 32))),
                (403, Ask(lifetime: 0)),
                (403, Ask(lifetime: -1)),
                (403, Ask(lifetime: 75)),
                (403, Ask(signedSandbox: other)),
                (403, Ask(signedPort: "2281")),
                (403, Ask(signedEpoch: "2")),
                (403, Ask(mac: { String($0.dropLast()) })),
                (403, Ask(mac: { $0.uppercased() })),
                (403, Ask(mac: { _ in "" })),
                (404, Ask(epoch: "2")),
                (404, Ask(authority: "\(other):2280", signedSandbox: other)),
            ]
            for (expected, ask) in asks { try await Self.expect(expected, path, ask) }
        }
    }

    @Test(arguments: [
        "02280", "+2280", "0", "65536", "2280 ", "0x8e8", "２２８０", "-1", "", "2280:1", "99999999999999999999",
    ])
    func onlyACanonicalPortIsTaken(port: String) async throws {
        try await TestPath.with { path in
            let ask = Ask(authority: "\(path.sandbox):\(port)", signedPort: port)
            try await Self.expect(400, path, ask)
        }
    }

    @Test func onlyOneWayOfWritingIsTaken() async throws {
        try await TestPath.with { path in
            let id = path.sandbox
            let asks = [
                Ask(host: "\(id):2281"), Ask(authority: "\(id.description.uppercased()):2280"),
                Ask(authority: "127.0.0.1:2280"),
                Ask(authority: "\(id)"), Ask(line: "GET / HTTP/1.1"), Ask(line: "CONNECT \(id):2280 HTTP/1.0"),
                Ask(line: "CONNECT  \(id):2280 HTTP/1.1"), Ask(epoch: "01"), Ask(extra: "Host: x\r\n"),
                Ask(extra: "X-Martlet-Epoch: 2\r\n"), Ask(extra: " folded\r\n"), Ask(extra: "X: \u{1}\r\n"),
                Ask(extra: "X: \(String(repeating: "x", count: 4000))\r\n"),
            ]
            for ask in asks { try await Self.expect(400, path, ask) }
        }
    }

    @Test func aHeadThatDoesNotComeIsCut() async throws {
        var limits = IngressLimits()
        limits.headDeadline = .milliseconds(300)
        try await TestPath.with(ingressLimits: limits) { path in
            await #expect(throws: (any Error).self) {
                try await Self.connect(path) { wire in
                    try await wire.send("CONNECT ")
                    _ = try await wire.readHead()
                }
            }
            await #expect(throws: (any Error).self) {
                try await Wire.connect(to: path.ingress) { wire in _ = try await wire.readHead() }
            }
        }
    }

    @Test func tunnelsToOneSandboxAreCounted() async throws {
        var limits = IngressLimits()
        limits.tunnelsPerSandboxLimit = 1
        try await TestPath.with(ingressLimits: limits) { path in
            let head = Ask().head(path)
            async let served: Void = path.serve { server in _ = try? await server.readToEnd() }
            try await Self.connect(path) { wire in
                try await wire.send(head)
                #expect(Message(head: try await wire.readHead()).status == 200)
                try await Self.expect(503, path, Ask())
            }
            try await served
            try await eventually { path.ingressServer.openTunnels == 0 }
            try await Self.expect(200, path, Ask())
        }
    }

    @Test func endOfInputPassesWhileTheOtherWayStaysOpen() async throws {
        try await TestPath.with { path in
            let head = Ask().head(path)
            async let served: Void = path.serve { server in
                #expect(try await server.readToEnd() == "question")
                try await server.send("answer")
            }
            try await Self.connect(path) { wire in
                // The bytes after the head are the tunnel's already.
                try await wire.send(head + "ques")
                #expect(Message(head: try await wire.readHead()).status == 200)
                try await wire.send("tion")
                wire.finish()
                #expect(try await wire.readToEnd() == "answer")
            }
            try await served
            try await eventually { path.ingressServer.openTunnels == 0 }
        }
    }

    @Test func aPortWhereNothingListensIsNamed() async throws {
        try await TestPath.with { path in
            let head = Ask(authority: "\(path.sandbox):4444", signedPort: "4444").head(path)
            let answer = try await Self.connect(path) { wire in
                try await wire.send(head)
                return try await wire.readMessage()
            }
            #expect(answer.status == 502)
            #expect(answer.body.contains("127.0.0.1:4444 in sandbox \(path.sandbox): Connection refused"))
        }
    }

    /// A killed daemon is followed by another within moments.
    @Test(arguments: [true, false])
    func aDaemonThatDoesNotListenYetIsWaitedFor(follows: Bool) async throws {
        var limits = IngressLimits()
        limits.daemonPatience = follows ? .seconds(20) : .milliseconds(100)
        try await TestPath.with(ingressLimits: limits) { path in
            let namespace = try TestNamespace()
            let empty = SandboxID.random()
            path.sandboxes.targets.withLock { $0[empty] = (namespace.target, 1) }
            let ask = Ask(authority: "\(empty):2280", signedSandbox: empty)
            try await Self.connect(path) { wire in
                try await wire.send(ask.head(path))
                guard follows else {
                    let answer = try await wire.readMessage()
                    #expect(answer.status == 502 && answer.body.contains("127.0.0.1:2280"))
                    return
                }
                try await Task.sleep(for: .milliseconds(50))  // usually enough for the first try to be refused
                let listener = try namespace.listen(on: 2280)
                defer { close(listener) }
                #expect(Message(head: try await wire.readHead()).status == 200)
            }
        }
    }

    @Test func aServerThatDoesNotAcceptIsGivenUpAndHoldsUpNobodyElse() async throws {
        var limits = IngressLimits()
        limits.dialDeadline = .seconds(2)
        try await TestPath.with(ingressLimits: limits) { path in
            let namespace = try TestNamespace()
            let full = SandboxID.random()
            path.sandboxes.targets.withLock { $0[full] = (namespace.target, 1) }
            let listener = try namespace.listen(on: 2280, backlog: 0)
            defer { close(listener) }
            let ask = Ask(authority: "\(full):2280", signedSandbox: full)
            try await withThrowingTaskGroup(of: Int.self) { group in
                for _ in 0..<12 {
                    group.addTask {
                        try await Self.connect(path) { wire in
                            try await wire.send(ask.head(path))
                            let status = Message(head: try await wire.readHead()).status
                            try await Task.sleep(for: .seconds(1))
                            return status
                        }
                    }
                }
                try await Self.expect(200, path, Ask())
                var statuses: Set<Int> = []
                for try await status in group { statuses.insert(status) }
                #expect(statuses == [200, 504])
            }
        }
    }

    @Test func noProcessButTheSandboxsIsFollowed() async throws {
        try await TestPath.with { path in
            let good = path.sandboxes.targets.withLock { $0[path.sandbox]!.target }
            for target in [
                // The runner's own namespace: a number that the host has given to one of its own.
                SandboxTarget(pid: getpid(), cgroupFragment: ":"),
                // A process of another container.
                SandboxTarget(pid: good.pid, cgroupFragment: String(repeating: "f", count: 64)),
                SandboxTarget(pid: good.pid, cgroupFragment: ""),
                SandboxTarget(pid: Int32.max - 1, cgroupFragment: ":"),
                SandboxTarget(pid: 0, cgroupFragment: ":"),
            ] {
                path.sandboxes.targets.withLock { $0[path.sandbox]?.target = target }
                try await Self.expect(409, path, Ask())
            }
            path.sandboxes.targets.withLock { $0[path.sandbox]?.target = good }
            try await Self.expect(200, path, Ask())
        }
    }

    @Test func theIdentityIsMadeOnceAndKept() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "martlet-identity-\(UUID())").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let first = try IngressIdentity.load(from: directory)
        #expect(try IngressIdentity.load(from: directory).fingerprint == first.fingerprint)
        #expect(first.fingerprint.count == 64)
        let attributes = try FileManager.default.attributesOfItem(atPath: directory + "/ingress.pem")
        #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == 0o600)
        try Data("damaged".utf8).write(to: URL(filePath: directory + "/ingress.pem"))
        #expect(throws: (any Error).self) { try IngressIdentity.load(from: directory) }
    }
}
