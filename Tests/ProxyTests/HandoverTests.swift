import Foundation
import NIOCore
import Proxy
import Runner
import Store
import Testing

/// What is peculiar to a runner of the same host, which gives its connections away. That they serve and break as tunnels
/// through it do, the tests of these go both ways for (``TestPath/Handover/bothWays``).
@Suite(.timeLimit(.minutes(5)))
struct HandoverTests {
    @Test func whoeverIsDoneWithItLeavesNoCopyOpen() async throws {
        try await TestPath.with(handover: .needed) { path in
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

    @Test func whatNobodyHasMovedForLongIsCut() async throws {
        var limits = ProxyLimits()
        limits.exchangeIdleLimit = .seconds(1)
        try await TestPath.with(proxyLimits: limits, handover: .needed) { path in
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
        try await TestPath.with(ingressLimits: limits, handover: .needed) { path in
            let full = try await path.fetch(path.request("GET", "/"))
            #expect(full.status == 429)
            #expect(full.body.contains("limit of 0 open tunnels"))
        }
        try await TestPath.with(handover: .needed) { path in
            path.updateRoute { $0.ingressSecret = Array(repeating: 1, count: 32) }
            let distrusted = try await path.fetch(path.request("GET", "/"))
            #expect(distrusted.status == 502)
            #expect(distrusted.body.contains("token"))
            #expect(path.ingressServer.openTunnels == 0)
        }
        try await TestPath.with(handover: .needed) { path in
            path.updateRoute { $0.epoch = 7 }
            let fenced = try await path.fetch(path.request("GET", "/"))
            #expect(fenced.status == 503)
            #expect(fenced.body.contains("epoch 1, not 7"))
        }
    }

    @Test func theSocketTakesOneHeadAndNothingElse() async throws {
        try await TestPath.with(handover: .needed) { path in
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
