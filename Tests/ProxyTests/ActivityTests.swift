import NIOCore
import Proxy
import Synchronization
import Testing

/// What counts as use of a sandbox, and that it is written in batches.
@Suite(.timeLimit(.minutes(5)))
struct ActivityTests {
    private static func reported(_ path: TestPath) -> Int {
        path.routes.state.withLock { $0.reported.joined().filter { $0 == path.sandbox }.count }
    }

    private static var quick: ProxyLimits {
        var limits = ProxyLimits()
        limits.activityInterval = .milliseconds(200)
        limits.activityRefresh = .seconds(1)
        return limits
    }

    @Test func manyRequestsAreOneReportAndTheOptOutIsNone() async throws {
        try await TestPath.with(proxyLimits: Self.quick) { path in
            try await path.run { server in
                for _ in 0..<51 {
                    _ = try await server.readMessage()
                    try await server.answer()
                }
            } client: { client in
                try await client.send(path.request("GET", "/", fields: "X-Daytona-Skip-Last-Activity-Update: true\r\n"))
                _ = try await client.readMessage()
                try await Task.sleep(for: .milliseconds(500))
                #expect(Self.reported(path) == 0)
                for _ in 0..<50 {
                    try await client.send(path.request("GET", "/"))
                    _ = try await client.readMessage()
                }
                try await eventually { Self.reported(path) > 0 }
                #expect(Self.reported(path) < 50)
            }
        }
    }

    @Test func anOpenCallKeepsItsSandboxInUse() async throws {
        try await TestPath.with(proxyLimits: Self.quick) { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await eventually { Self.reported(path) >= 3 }
                try await server.answer()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                _ = try await client.readMessage()
            }
        }
    }
}
