import Glibc
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import Synchronization
import Testing

@testable import Toolbox
@testable import WebSockets

/// The daemon's responder and server with routes of the test's own.
private func withServer(
    limits: WebSocketLimits = WebSocketLimits(),
    idleTimeout: TimeAmount = .minutes(10),
    _ conversation: @escaping WebSocketAnswer.Conversation,
    _ body: (_ port: Int, _ stop: @Sendable () async -> Void) async throws -> Void
) async throws {
    var routes = RouteMap()
    routes.onWebSocket("/socket") { call in
        let handshake = try WebSocketHandshake(call.request.head)
        guard !handshake.protocols.contains("refuse") else { throw ToolboxError(.conflict, "CONFLICT", "refused") }
        return .accept(protocol: handshake.protocols.first { $0 == "second" }, limits: limits, conversation)
    }
    routes.on(.get, "/plain") { _ in emptyResponse(.ok) }
    let (ports, announce) = AsyncStream.makeStream(of: Int.self)
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let application = Application(
        responder: ToolboxResponder(token: AccessToken(TestClient.token), routes: routes, logger: logger),
        server: .http1WithWebSockets(configuration: .init(idleTimeout: idleTimeout)),
        configuration: .init(address: .hostname("127.0.0.1", port: 0), serverName: nil),
        onServerRunning: { announce.yield($0.localAddress?.port ?? 0) },
        eventLoopGroupProvider: .shared(MultiThreadedEventLoopGroup.singleton),
        logger: logger
    )
    let group = ServiceGroup(services: [application], logger: logger)
    try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask { try await group.run() }
        var iterator = ports.makeAsyncIterator()
        try await body(try #require(await iterator.next())) { await group.triggerGracefulShutdown() }
        await group.triggerGracefulShutdown()
        try await tasks.waitForAll()
    }
}

private final class Counter: Sendable {
    private let count = Mutex(0)

    var value: Int { count.withLock { $0 } }

    func add() { count.withLock { $0 += 1 } }
}

private let echo: WebSocketAnswer.Conversation = { socket in
    for await message in socket.messages { try await socket.send(message) }
}

@Suite("WebSockets", .timeLimit(.minutes(5)))
struct WebSocketTests {
    @Test("The handshake of RFC 6455's example, a sub-protocol that was offered, text and binary back")
    func handshake() async throws {
        try await withServer(echo) { port, _ in
            try await TestSocket.open(port: port, "/socket", headers: [("Sec-WebSocket-Protocol", "first, second")]) {
                socket in
                #expect(socket.status == 101)
                #expect(socket.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
                #expect(socket.headers["sec-websocket-protocol"] == "second")
                #expect(socket.headers["transfer-encoding"] == nil && socket.headers["content-length"] == nil)
                try await socket.send("grüße")
                #expect(try await socket.next() == .init(opcode: 1, content: ByteBuffer(string: "grüße")))
                try await socket.send(2, ByteBuffer(bytes: [0, 255, 1]))
                #expect(try await socket.next() == .init(opcode: 2, content: ByteBuffer(bytes: [0, 255, 1])))
                try await socket.send("")
                #expect(try await socket.next()?.text == "")
            }
        }
    }

    @Test(
        "What is no handshake gets an ordinary answer, and its connection ends",
        arguments: [
            ("/socket", ["Upgrade"], [("X", "y")], 426), ("/socket", ["Sec-WebSocket-Key"], [], 400),
            ("/socket", ["Sec-WebSocket-Key"], [("Sec-WebSocket-Key", "short")], 400),
            ("/socket", ["Sec-WebSocket-Version"], [("Sec-WebSocket-Version", "8")], 426),
            ("/socket", [], [("Sec-WebSocket-Protocol", "not a token")], 400),
            ("/socket", [], [("Sec-WebSocket-Protocol", "refuse")], 409), ("/plain", [], [], 405),
            ("/nowhere", [], [], 404), ("/plain", ["Upgrade"], [("Upgrade", "h2c")], 200),
        ] as [(String, Set<String>, [(String, String)], Int)]
    )
    func refusals(target: String, omitting: Set<String>, headers: [(String, String)], status: Int) async throws {
        try await withServer(echo) { port, _ in
            try await TestSocket.open(port: port, target, headers: headers, omitting: omitting) { socket in
                #expect(socket.status == status)
                guard !omitting.contains("Upgrade") || headers.contains(where: { $0.0 == "Upgrade" }) else { return }
                let body = try await socket.rest()
                #expect(body.contains(#""statusCode":\#(status)"#) || status == 200)
                #expect(socket.headers["connection"]?.lowercased() == "close")
            }
        }
    }

    @Test("Without the token there is no WebSocket")
    func token() async throws {
        try await withServer(echo) { port, _ in
            for token in [nil, "a token for testz"] {
                try await TestSocket.open(port: port, "/socket", token: token) { socket in
                    #expect(socket.status == 401)
                }
            }
        }
    }

    @Test("Frames that come with the handshake, or byte by byte, are not lost")
    func pieces() async throws {
        try await withServer(echo) { port, _ in
            let early = TestSocket.frame(1, ByteBuffer(string: "early"))
            try await TestSocket.open(port: port, "/socket", early: early) { socket in
                #expect(try await socket.next()?.text == "early")
                for byte in TestSocket.frame(1, ByteBuffer(string: "slow")).readableBytesView {
                    try await socket.sendRaw(ByteBuffer(bytes: [byte]))
                }
                #expect(try await socket.next()?.text == "slow")
            }
        }
    }

    @Test("A message in fragments is one, with control frames between them; a character may be split")
    func fragments() async throws {
        try await withServer(echo) { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                let bytes = Array("é€😀".utf8)
                try await socket.send(1, ByteBuffer(bytes: bytes[..<1]), fin: false)
                try await socket.send(9, ByteBuffer(string: "ping"))
                #expect(try await socket.nextFrame() == .init(opcode: 10, content: ByteBuffer(string: "ping")))
                try await socket.send(0, ByteBuffer(bytes: bytes[1..<4]), fin: false)
                try await socket.send(0, ByteBuffer(bytes: bytes[4...]))
                #expect(try await socket.next()?.text == "é€😀")
            }
        }
    }

    @Test(
        "Violations close with their code",
        arguments: [
            ("unmasked", [TestSocket.frame(1, ByteBuffer(string: "x"), masked: false)], 1002),
            ("reserved bit", [TestSocket.frame(1, ByteBuffer(string: "x"), reserved: 0x40)], 1002),
            ("unknown opcode", [TestSocket.frame(3, ByteBuffer())], 1002),
            ("unknown control opcode", [TestSocket.frame(11, ByteBuffer())], 1002),
            ("continuation of nothing", [TestSocket.frame(0, ByteBuffer())], 1002),
            (
                "message in a message",
                [TestSocket.frame(1, ByteBuffer(), fin: false), TestSocket.frame(2, ByteBuffer())], 1002
            ),
            ("fragmented ping", [TestSocket.frame(9, ByteBuffer(), fin: false)], 1002),
            ("long ping", [TestSocket.frame(9, ByteBuffer(repeating: 0, count: 126))], 1002),
            ("invalid text", [TestSocket.frame(1, ByteBuffer(bytes: [0xC3, 0x28]))], 1007),
            ("cut text", [TestSocket.frame(1, ByteBuffer(bytes: [0xE2, 0x82]))], 1007),
            ("large frame", [TestSocket.frame(2, ByteBuffer(repeating: 0, count: 70_000))], 1009),
            (
                "large message",
                [
                    TestSocket.frame(2, ByteBuffer(repeating: 0, count: 40_000), fin: false),
                    TestSocket.frame(0, ByteBuffer(repeating: 0, count: 40_000)),
                ], 1009
            ),
            ("close with one byte", [TestSocket.frame(8, ByteBuffer(bytes: [3]))], 1002),
            ("close with a code that must not be sent", [TestSocket.frame(8, ByteBuffer(integer: UInt16(1005)))], 1002),
            ("close with invalid text", [TestSocket.frame(8, ByteBuffer(bytes: [0x03, 0xE8, 0xFF]))], 1007),
        ] as [(String, [ByteBuffer], UInt16)]
    )
    func violations(name: String, frames: [ByteBuffer], code: UInt16) async throws {
        var limits = WebSocketLimits()
        limits.messageBytes = 65536
        try await withServer(limits: limits, echo) { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                for frame in frames { try await socket.sendRaw(frame) }
                let close = try await socket.next()
                #expect(close?.code == code && close?.reason.isEmpty == false)
                #expect(try await socket.nextFrame() == nil)
            }
        }
    }

    @Test("The peer's close is answered with its code, and the conversation ends after what came before it")
    func peerCloses() async throws {
        let received = Mutex<[String]>([])
        try await withServer { socket in
            for await case .text(let text) in socket.messages { received.withLock { $0.append(text) } }
            await #expect(throws: (any Error).self) { try await socket.send(.text("too late")) }
            received.withLock { $0.append("end") }
        } _: { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                try await socket.send("one")
                try await socket.send("two")
                try await socket.sendClose(4321)
                let close = try await socket.next()
                #expect(close?.code == 4321)
                #expect(try await socket.nextFrame() == nil)
            }
            #expect(try await eventually { received.withLock { $0 } == ["one", "two", "end"] })
        }
    }

    @Test("Our close: 1000 at the conversation's end, 1011 when it throws, its own code and a reason cut to fit")
    func weClose() async throws {
        struct Failure: Error {}
        try await withServer { socket in
            for await message in socket.messages {
                switch message {
                case .text("return"): return
                case .text("throw"): throw Failure()
                default: await socket.close(4000, String(repeating: "ü", count: 100))
                }
            }
        } _: { port, _ in
            for (word, code) in [("return", 1000), ("throw", 1011), ("close", 4000)] as [(String, UInt16)] {
                try await TestSocket.open(port: port, "/socket") { socket in
                    try await socket.send(word)
                    let close = try await socket.next()
                    #expect(close?.code == code)
                    if code == 4000 { #expect(close?.reason == String(repeating: "ü", count: 61)) }
                    try await socket.sendClose(code)
                    #expect(try await socket.nextFrame() == nil)
                }
            }
        }
    }

    @Test("A peer that does not answer our close is waited for only so long; one that vanishes ends the conversation")
    func boundedWaits() async throws {
        var limits = WebSocketLimits()
        limits.closeWait = .milliseconds(200)
        let ended = Counter()
        try await withServer(limits: limits) { socket in
            for await message in socket.messages where message == .text("close") { await socket.close(1000) }
            ended.add()
        } _: { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                try await socket.send("close")
                #expect(try await socket.next()?.code == 1000)
                #expect(try await socket.nextFrame() == nil)
            }
            #expect(try await eventually { ended.value == 1 })
            try await TestSocket.open(port: port, "/socket") { socket in try await socket.send("x") }
            #expect(try await eventually { ended.value == 2 })
        }
    }

    @Test(
        "A silent peer is pinged, and dropped when it answers nothing; one that answers is kept beyond the HTTP idle time"
    )
    func silence() async throws {
        var limits = WebSocketLimits()
        limits.pingInterval = .milliseconds(50)
        limits.silence = .seconds(2)
        try await withServer(limits: limits, idleTimeout: .milliseconds(200), echo) { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                var pings = 0
                while let frame = try await socket.nextFrame(), frame.opcode == 9 { pings += 1 }
                #expect(pings >= 2)
            }
            try await TestSocket.open(port: port, "/socket") { socket in
                let start = ContinuousClock.now
                while ContinuousClock.now - start < .seconds(4) {
                    let frame = try #require(try await socket.nextFrame())
                    #expect(frame.opcode == 9)
                    try await socket.send(10, frame.content)
                }
                try await socket.send("still here")
                #expect(try await socket.next()?.text == "still here")
            }
        }
    }

    @Test("A pong goes between the frames of a large message")
    func pongPriority() async throws {
        let size = 32 << 20
        try await withServer { socket in
            for await _ in socket.messages {
                try await socket.send(.binary(ByteBuffer(repeating: 7, count: size)))
            }
        } _: { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                try await socket.setReading(false)
                try await socket.send("go")
                try await socket.send(9, ByteBuffer(string: "now"))
                try await socket.setReading(true)
                var (before, after) = (0, 0)
                var ponged = false
                while before + after < size, let frame = try await socket.nextFrame() {
                    if frame.opcode == 10 {
                        ponged = true
                    } else if ponged {
                        after += frame.content.readableBytes
                    } else {
                        before += frame.content.readableBytes
                    }
                }
                #expect(ponged && before < size && before + after == size)
            }
        }
    }

    @Test("Back-pressure out: a peer that does not read holds up `send`, and memory stays flat")
    func outboundBackPressure() async throws {
        let sent = Counter()
        let piece = ByteBuffer(repeating: 1, count: 1 << 20)
        try await withServer { socket in
            while true {
                try await socket.send(.binary(piece))
                sent.add()
            }
        } _: { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                try await socket.setReading(false)
                var last = -1
                #expect(
                    try await eventually(.seconds(60)) {
                        let before = last
                        last = sent.value
                        try await Task.sleep(for: .milliseconds(200))
                        return before == last
                    }
                )
                #expect(last < 64)
                try await socket.setReading(true)
                for _ in 0..<(last + 20) {
                    #expect(try await socket.next()?.content.readableBytes == piece.readableBytes)
                }
            }
        }
    }

    @Test(
        "Back-pressure in: messages nobody takes are not read, none is lost, and the peer is not dropped for our sake"
    )
    func inboundBackPressure() async throws {
        var limits = WebSocketLimits()
        limits.pingInterval = .milliseconds(50)
        limits.silence = .seconds(1)
        let go = AsyncStream.makeStream(of: Void.self)
        let count = 400
        let written = Counter()
        try await withServer(limits: limits) { socket in
            for await _ in go.stream { break }
            var bytes = 0
            for await message in socket.messages {
                bytes += message.count
                if bytes == count * 100_000 { break }
            }
            try await socket.send(.text("\(bytes)"))
        } _: { port, _ in
            try await TestSocket.open(port: port, "/socket") { socket in
                let piece = TestSocket.frame(2, ByteBuffer(repeating: 1, count: 100_000))
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    tasks.addTask {
                        for _ in 0..<count {
                            try await socket.sendRaw(piece)
                            written.add()
                        }
                    }
                    try await Task.sleep(for: .seconds(2))
                    #expect(written.value < count / 2)
                    go.continuation.yield()
                    try await tasks.waitForAll()
                }
                #expect(try await socket.next()?.text == "\(count * 100_000)")
            }
        }
    }

    @Test("Graceful shutdown closes with 1001 and waits for nobody for long")
    func shutdown() async throws {
        var limits = WebSocketLimits()
        limits.closeWait = .milliseconds(300)
        try await withServer(limits: limits, echo) { port, stop in
            try await TestSocket.open(port: port, "/socket") { socket in
                try await socket.send("x")
                _ = try await socket.next()
                await stop()
                #expect(try await socket.next()?.code == 1001)
                #expect(try await socket.nextFrame() == nil)
            }
        }
    }

    @Test("A second request on a connection may become a WebSocket")
    func secondRequest() async throws {
        try await withServer(echo) { port, _ in
            try await TestSocket.open(port: port, "/plain", omitting: ["Upgrade"]) { socket in
                #expect(socket.status == 200)
                try await socket.upgrade("/socket")
                #expect(socket.status == 101)
                try await socket.send("again")
                #expect(try await socket.next()?.text == "again")
            }
        }
    }
}
