import NIOCore
import Proxy
import Runner
import Testing

/// Each limit by its name, reached.
@Suite(.timeLimit(.minutes(5)))
struct LimitsTests {
    @Test func aHeadThatIsTooLargeIsRefused() async throws {
        try await TestPath.with { path in
            let answer = try await path.fetch(
                path.request("GET", "/", fields: "X: \(String(repeating: "x", count: 66_000))\r\n")
            )
            #expect(answer.status == 431)
            #expect(answer.body.contains("65536 bytes"))
            let many = try await path.fetch(path.request("GET", "/", fields: String(repeating: "X: y\r\n", count: 200)))
            #expect(many.status == 431)
            #expect(many.body.contains("128 header fields"))
        }
    }

    @Test func aHeadThatDoesNotComeInTimeIsRefused() async throws {
        var limits = ProxyLimits()
        limits.headDeadline = .seconds(1)
        try await TestPath.with(proxyLimits: limits) { path in
            try await Wire.connect(to: path.proxy) { client in
                try await client.send("GET /health HTTP/1.1\r\n")
                #expect(try await client.readMessage().status == 408)
            }
        }
    }

    @Test func anIdleConnectionIsClosed() async throws {
        var limits = ProxyLimits()
        limits.keepAliveLimit = .seconds(1)
        try await TestPath.with(proxyLimits: limits) { path in
            let last = try await Wire.connect(to: path.proxy) { client in try await client.readToEnd() }
            #expect(last == "")
        }
    }

    @Test func aBodyThatStandsStillIsCut() async throws {
        var limits = ProxyLimits()
        limits.stallLimit = .seconds(1)
        try await TestPath.with(proxyLimits: limits) { path in
            try await path.run { server in
                _ = try await server.readHead()
                await #expect(throws: (any Error).self) { _ = try await server.read(through: "never") }
            } client: { client in
                try await client.send(path.request("POST", "/", fields: "Content-Length: 10\r\n", body: "beg"))
                await #expect(throws: (any Error).self) { _ = try await client.readMessage() }
            }
        }
    }

    @Test func aSandboxMayTakeLongerThanAnyOfThese() async throws {
        var limits = ProxyLimits()
        limits.stallLimit = .seconds(4)
        limits.headDeadline = .seconds(4)
        limits.keepAliveLimit = .seconds(4)
        limits.tunnelIdleLimit = .seconds(4)
        try await TestPath.with(proxyLimits: limits) { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await Task.sleep(for: .seconds(8))
                try await server.answer()
            } client: { client in
                try await client.send(
                    path.request("POST", "/process/execute", fields: "Content-Length: 2\r\n", body: "{}")
                )
                #expect(try await client.readMessage().status == 200)
            }
        }
    }

    @Test func oneAddressMayNotTakeAllConnections() async throws {
        var limits = ProxyLimits()
        limits.connectionsPerAddressLimit = 2
        try await TestPath.with(proxyLimits: limits) { path in
            try await Wire.connect(to: path.proxy) { first in
                try await Wire.connect(to: path.proxy) { second in
                    for client in [first, second] {
                        try await client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                        #expect(try await client.readMessage().status == 200)
                    }
                    await #expect(throws: (any Error).self) {
                        try await path.fetch("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    }
                }
            }
            try await eventually {
                (try? await path.fetch("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").status) == 200
            }
        }
    }

    @Test func oneSandboxMayNotTakeAllTunnels() async throws {
        var limits = ProxyLimits()
        limits.tunnelsPerSandboxLimit = 1
        try await TestPath.with(proxyLimits: limits) { path in
            // One tunnel for each event loop: so many requests that one loop has two.
            await withTaskGroup(of: Int.self) { group in
                for _ in 0..<16 { group.addTask { (try? await path.fetch(path.request("GET", "/")).status) ?? 0 } }
                #expect(await group.next() == 429)
                group.cancelAll()
            }
        }
    }

    @Test func anUnusedTunnelIsClosed() async throws {
        var limits = ProxyLimits()
        limits.tunnelIdleLimit = .seconds(1)
        try await TestPath.with(proxyLimits: limits) { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.answer()
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().status == 200)
                try await eventually { path.ingressServer.openTunnels == 0 }
            }
        }
    }
}
