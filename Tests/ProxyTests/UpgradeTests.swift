import Testing

/// A WebSocket is bytes, both ways, at once.
@Suite(.timeLimit(.minutes(5)))
struct UpgradeTests {
    private static let fields =
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\nSec-WebSocket-Version: 13\r\n"
    private static let switched =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"

    @Test(arguments: TestPath.Handover.bothWays)
    func bytesPassUntouchedAndUnbuffered(handover: TestPath.Handover) async throws {
        try await TestPath.with(handover: handover) { path in
            try await path.run { server in
                let head = Message(head: try await server.readHead())
                #expect(head["connection"] == "Upgrade")
                #expect(head["upgrade"] == "websocket")
                #expect(head["sec-websocket-key"] == "abc")
                #expect(head["x-martlet-token"] == "t0ken")
                // The first frame comes with the head: it must not wait (a PTY has 100 ms).
                try await server.send(Self.switched + "\u{1}\u{2}first")
                #expect(try await server.read(7) == "\u{0}\u{7f}ping\n")
                try await server.send("pong")
                #expect(try await server.readToEnd() == "last words")
                try await server.send("farewell")
            } client: { client in
                try await client.send(path.request("GET", "/process/pty/x/connect", fields: Self.fields))
                let head = Message(head: try await client.readHead())
                #expect(head.status == 101)
                #expect(head["sec-websocket-accept"] == "x")
                #expect(head.values("connection") == ["Upgrade"])
                #expect(try await client.read(7) == "\u{1}\u{2}first")
                try await client.send("\u{0}\u{7f}ping\n")
                #expect(try await client.read(4) == "pong")
                try await client.send("last words")
                client.finish()
                #expect(try await client.readToEnd() == "farewell")
            }
        }
    }

    @Test func framesSentBeforeTheAnswerArriveAfterIt() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.send(Self.switched)
                #expect(try await server.read(5) == "eager")
            } client: { client in
                try await client.send(path.request("GET", "/x", fields: Self.fields, body: "eager"))
                #expect(Message(head: try await client.readHead()).status == 101)
                _ = try? await client.readToEnd()
            }
        }
    }

    @Test func aRefusedUpgradeIsAnOrdinaryAnswer() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.answer("no such session", status: "404 Not Found")
                _ = try await server.readMessage()
                try await server.answer()
            } client: { client in
                try await client.send(path.request("GET", "/x", fields: Self.fields))
                #expect(try await client.readMessage().status == 404)
                try await client.send(path.request("GET", "/y"))
                #expect(try await client.readMessage().status == 200)
            }
        }
    }

    @Test func aServerThatVanishesEndsTheClientsSide() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.send(Self.switched)
                // A reset may overtake bytes that nobody has read yet: not before the client has its head.
                _ = try await server.read(2)
                try await server.reset()
            } client: { client in
                try await client.send(path.request("GET", "/x", fields: Self.fields))
                #expect(Message(head: try await client.readHead()).status == 101)
                try await client.send("go")
                await #expect(throws: (any Error).self) { _ = try await client.readToEnd() }
            }
        }
    }
}
