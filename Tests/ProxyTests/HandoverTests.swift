import Foundation
import NIOCore
import Proxy
import Runner
import Store
import Testing

/// A runner of the same host gives its connections away: they serve, count and break as tunnels through it do.
@Suite(.timeLimit(.minutes(1)))
struct HandoverTests {
    /// Nothing but the Unix socket leads to the runner.
    private static func with(
        proxyLimits: ProxyLimits = ProxyLimits(),
        ingressLimits: IngressLimits = IngressLimits(),
        _ body: @Sendable (TestPath) async throws -> Void
    ) async throws {
        try await TestPath.with(proxyLimits: proxyLimits, ingressLimits: ingressLimits, handover: .offered) { path in
            path.updateRoute { $0.ingressAddress = "127.0.0.1:1" }
            try await body(path)
        }
    }

    @Test func oneConnectionServesManyRequestsAndIsCounted() async throws {
        try await Self.with { path in
            try await path.run { server in
                for number in 0..<20 {
                    #expect(try await server.readMessage().firstLine == "GET /\(number) HTTP/1.1")
                    try await server.answer("\(number)")
                }
            } client: { client in
                for number in 0..<20 {
                    try await client.send(path.request("GET", "/\(number)"))
                    #expect(try await client.readMessage().body == "\(number)")
                    if number == 10 { #expect(path.ingressServer.openTunnels == 1) }
                }
            }
        }
    }

    @Test func whoeverIsDoneWithItLeavesNoCopyOpen() async throws {
        try await Self.with { path in
            for _ in 0..<10 {
                try await path.run { server in
                    _ = try await server.readMessage()
                    try await server.answer(extra: "Connection: close\r\n")
                    // Ends only when the last descriptor is closed, in proxy and runner.
                    _ = try? await server.readToEnd()
                } client: { client in
                    try await client.send(path.request("GET", "/"))
                    #expect(try await client.readMessage().status == 200)
                }
            }
        }
    }

    @Test func aClientThatLeavesEndsTheCallInTheSandbox() async throws {
        try await Self.with { path in
            let asked = Signal()
            try await path.run { server in
                _ = try await server.readHead()
                asked.give()
                await #expect(throws: (any Error).self) { _ = try await server.read(through: "never") }
            } client: { client in
                try await client.send(path.request("GET", "/"))
                try await asked.wait()
                try await client.close()
            }
        }
    }

    @Test func aServerThatResetsABodyIsNotTakenForItsEnd() async throws {
        try await Self.with { path in
            let begun = Signal()
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send("HTTP/1.1 200 OK\r\n\r\nhalf")
                try await begun.wait()
                try await server.reset()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                _ = try await client.readHead()
                begun.give()
                await #expect(throws: (any Error).self) { _ = try await client.read(through: "0\r\n\r\n") }
            }
        }
    }

    @Test func aWebSocketEndsOneWayAtATime() async throws {
        try await Self.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )
                #expect(try await server.readToEnd() == "question")
                try await server.send("answer")
            } client: { client in
                let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                try await client.send(path.request("GET", "/x", fields: fields))
                #expect(Message(head: try await client.readHead()).status == 101)
                try await client.send("question")
                client.finish()
                #expect(try await client.readToEnd() == "answer")
            }
        }
    }

    @Test func whatNobodyHasMovedForLongIsCut() async throws {
        var limits = ProxyLimits()
        limits.exchangeIdleLimit = .seconds(1)
        try await Self.with(proxyLimits: limits) { path in
            try await path.run { server in
                _ = try await server.readHead()
                await #expect(throws: (any Error).self) { _ = try await server.read(through: "never") }
            } client: { client in
                try await client.send(path.request("GET", "/"))
                await #expect(throws: (any Error).self) { _ = try await client.readMessage() }
            }
        }
    }

    @Test func theRunnerRefusesAsItDoesThroughTLS() async throws {
        var limits = IngressLimits()
        limits.tunnelsPerSandboxLimit = 0
        try await Self.with(ingressLimits: limits) { path in
            let full = try await path.fetch(path.request("GET", "/"))
            #expect(full.status == 429)
            #expect(full.body.contains("limit of 0 open tunnels"))
        }
        try await Self.with { path in
            path.updateRoute { $0.ingressSecret = Array(repeating: 1, count: 32) }
            let distrusted = try await path.fetch(path.request("GET", "/"))
            #expect(distrusted.status == 502)
            #expect(distrusted.body.contains("token"))
            #expect(path.ingressServer.openTunnels == 0)
        }
        try await Self.with { path in
            path.updateRoute { $0.epoch = 7 }
            let fenced = try await path.fetch(path.request("GET", "/"))
            #expect(fenced.status == 503)
            #expect(fenced.body.contains("epoch 1, not 7"))
        }
    }

    @Test func theSocketTakesOneHeadAndNothingElse() async throws {
        try await Self.with { path in
            let door = try SocketAddress(unixDomainSocketPath: path.handoverSocket)
            for (status, extra) in [(400, "x"), (403, "")] {
                var ask = IngressTests.Ask()
                if status == 403 { ask.secret = Array(repeating: 0, count: 32) }
                let head = ask.head(path) + extra
                async let arrived: Void = status == 400 ? path.serve { _ = try? await $0.readToEnd() } : ()
                let answer = try await Wire.connect(to: door) { wire in
                    try await wire.send(head)
                    return try await wire.readMessage()
                }
                #expect(answer.status == status)
                try await arrived
            }
            try await eventually { path.ingressServer.openTunnels == 0 }
        }
    }

    @Test func aRunnerThatIsNotThereIsReachedThroughTLS() async throws {
        try await TestPath.with(handover: .soughtInVain) { path in
            for isStale in [false, true] {
                if isStale {
                    // What a runner that was killed leaves behind: a socket that nobody listens at.
                    let folder = URL(filePath: path.handoverSocket).deletingLastPathComponent()
                    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
                    try Data().write(to: URL(filePath: path.handoverSocket))
                }
                try await path.run { server in
                    _ = try await server.readMessage()
                    try await server.answer()
                } client: { client in
                    try await client.send(path.request("GET", "/"))
                    #expect(try await client.readMessage().status == 200)
                }
            }
        }
    }
}
