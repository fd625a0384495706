import NIOCore
import NIOPosix
import Proxy
import ServiceLifecycle
import Testing

/// A shutdown cuts nothing that can end in time.
@Suite(.timeLimit(.minutes(5)))
struct DrainTests {
    @Test func requestsInFlightEndAndNewConnectionsAreRefused() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegin")
                await path.proxyGroup.triggerGracefulShutdown()
                try await eventually {
                    (try? await Wire.connect(to: path.proxy) { _ in }) == nil
                }
                try await server.send("-end.")
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().body == "begin-end.")
                #expect(try await client.readToEnd() == "")
            }
        }
    }

    @Test func idleConnectionsAreClosedAtOnce() async throws {
        try await TestPath.with { path in
            try await Wire.connect(to: path.proxy) { client in
                try await client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                #expect(try await client.readMessage().status == 200)
                await path.proxyGroup.triggerGracefulShutdown()
                _ = try? await client.readToEnd()
            }
        }
    }

    @Test func whatDoesNotEndInTimeIsCut() async throws {
        var limits = ProxyLimits()
        limits.drainDeadline = .milliseconds(200)
        try await TestPath.with(proxyLimits: limits) { path in
            try await path.run { server in
                _ = try await server.readHead()
                await path.proxyGroup.triggerGracefulShutdown()
                await #expect(throws: (any Error).self) { _ = try await server.read(through: "never") }
            } client: { client in
                try await client.send(path.request("GET", "/"))
                await #expect(throws: (any Error).self) { _ = try await client.readMessage() }
            }
        }
    }
}
