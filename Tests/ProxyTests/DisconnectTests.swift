import Proxy
import Runner
import Store
import Synchronization
import Testing

/// Who goes away is noticed by the other side, and a cut body never looks complete.
@Suite(.timeLimit(.minutes(5)))
struct DisconnectTests {
    @Test(arguments: TestPath.Handover.bothWays)
    func aClientThatLeavesWhileItWaitsEndsTheCallInTheSandbox(handover: TestPath.Handover) async throws {
        let isServing = Signal()
        try await TestPath.with(handover: handover) { path in
            try await path.run { server in
                _ = try await server.readHead()
                isServing.give()
                await #expect(throws: (any Error).self) { _ = try await server.read(through: "never") }
            } client: { client in
                try await client.send(
                    path.request("POST", "/process/execute", fields: "Content-Length: 2\r\n", body: "{}")
                )
                try await isServing.wait()
                #expect(path.ingressServer.openTunnels == 1)
                try await client.close()
            }
            try await eventually { path.ingressServer.openTunnels == 0 && path.proxyService.openConnections == 0 }
        }
    }

    @Test(arguments: TestPath.Handover.bothWays)
    func aClientThatLeavesInTheMiddleOfABodyStopsTheServer(handover: TestPath.Handover) async throws {
        try await TestPath.with(handover: handover) { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbegin")
                await #expect(throws: (any Error).self) {
                    while true { try await server.send(String(repeating: "x", count: 65536)) }
                }
            } client: { client in
                try await client.send(path.request("GET", "/"))
                _ = try await client.readHead()
                try await client.reset()
            }
        }
    }

    @Test(arguments: [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfX",
    ])
    func aBodyThatIsCutIsCutForTheClientToo(answer: String) async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send(answer)
                server.finish()
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                await #expect(throws: (any Error).self) {
                    let head = Message(head: try await client.readHead())
                    if head["content-length"] != nil {
                        _ = try await client.read(100)
                    } else {
                        _ = try await client.read(through: "0\r\n\r\n")
                    }
                }
            }
        }
    }

    @Test func aServerThatResetsABodyForAnOldClientIsNotTakenForItsEnd() async throws {
        let hasBegun = Signal()
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send("HTTP/1.1 200 OK\r\n\r\nhalf")
                try await hasBegun.wait()
                try await server.reset()
            } client: { client in
                try await client.send(
                    "GET /toolbox/\(path.sandbox)/ HTTP/1.0\r\nAuthorization: Bearer \(path.key)\r\n\r\n"
                )
                _ = try await client.read(through: "half")
                hasBegun.give()
                await #expect(throws: (any Error).self) { _ = try await client.readToEnd() }
            }
        }
    }

    @Test(arguments: TestPath.Handover.bothWays)
    func aServerThatResetsABodyWithoutLengthIsNotTakenForItsEnd(handover: TestPath.Handover) async throws {
        let hasBegun = Signal()
        try await TestPath.with(handover: handover) { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send("HTTP/1.1 200 OK\r\n\r\nhalf")
                try await hasBegun.wait()
                try await server.reset()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                _ = try await client.read(through: "half")
                hasBegun.give()
                await #expect(throws: (any Error).self) { _ = try await client.read(through: "0\r\n\r\n") }
            }
        }
    }

    @Test(arguments: [
        "", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: \(String(repeating: "x", count: 70_000))",
    ])
    func aServerThatDoesNotAnswerInHTTPGives502(answer: String) async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                // The proxy does not wait for the end of what it cannot accept.
                try? await server.send(answer)
                server.finish()
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                let refusal = try await client.readMessage()
                #expect(refusal.status == 502)
                #expect(refusal.body.contains("DAYTONA_PROXY"))
            }
        }
    }

    @Test func aPooledTunnelThatWasClosedIsReplacedForWhatMayBeRepeated() async throws {
        try await TestPath.with { path in
            try await Wire.connect(to: path.proxy) { client in
                for (method, status) in [("GET", 200), ("POST", 502)] {
                    let first = path.request("GET", "/first")
                    let second = path.request(method, "/second", fields: "Content-Length: 2\r\n", body: "{}")
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        group.addTask {
                            // Answers, then meets the next request with a reset.
                            try await path.serve { server in
                                _ = try await server.readMessage()
                                try await server.answer()
                                _ = try await server.readHead()
                                try await server.reset()
                            }
                            if status == 200 {
                                try await path.serve { server in
                                    #expect(try await server.readMessage().body == "{}")
                                    try await server.answer("again")
                                    try await server.close()
                                }
                            }
                        }
                        try await client.send(first)
                        #expect(try await client.readMessage().body == "ok")
                        try await client.send(second)
                        #expect(try await client.readMessage().status == status)
                        try await group.waitForAll()
                    }
                }
            }
        }
    }

    @Test func whatCannotBeReachedIsSaidClearly() async throws {
        try await TestPath.with { path in
            func refusal(_ change: (inout Route) -> Void) async throws -> Message {
                path.updateRoute(change)
                path.routes.notify(.resync)
                try await Task.sleep(for: .milliseconds(50))
                return try await path.fetch(path.request("GET", "/"))
            }
            let good = path.routes.state.withLock { $0.routes[path.sandbox]! }
            let unreachable = try await refusal { $0.ingressAddress = "127.0.0.1:1" }
            #expect(unreachable.status == 503)
            #expect(unreachable.body.contains("127.0.0.1:1 cannot be reached"))

            let stranger = try await refusal {
                $0 = good
                $0.tlsFingerprint = String(repeating: "0", count: 64)
            }
            #expect(stranger.status == 502)
            #expect(stranger.body.contains("certificate"))

            let distrusted = try await refusal {
                $0 = good
                $0.ingressSecret = Array(repeating: 1, count: 32)
            }
            #expect(distrusted.status == 502)
            #expect(distrusted.body.contains("token"))

            let fenced = try await refusal {
                $0 = good
                $0.epoch = 7
            }
            #expect(fenced.status == 503)
            #expect(fenced.body.contains("epoch 1, not 7"))
            try await eventually { path.ingressServer.openTunnels == 0 }
        }
    }

    @Test func aRouteThatTheRunnerDisownsIsReadAgainAndFollowed() async throws {
        try await TestPath.with { path in
            path.updateRoute { $0.epoch = 2 }
            path.sandboxes.targets.withLock { $0[path.sandbox]?.epoch = 2 }
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.answer(extra: "Connection: close\r\n")
            } client: { client in
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().status == 200)
            }
            // Moved on without a notification: the runner's refusal is what tells.
            path.sandboxes.targets.withLock { $0[path.sandbox]?.epoch = 3 }
            path.updateRoute { $0.epoch = 3 }
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
