import NIOCore
import NIOPosix
import Testing

/// The client's end of a WebSocket as bytes, so that tests can send what no client would.
/// Unchecked: a test reads in one task, and sends, which touches nothing that changes, in the same or another one.
final class TestSocket: @unchecked Sendable {
    struct Frame: Equatable {
        var opcode: UInt8
        var content: ByteBuffer
        var fin = true

        var text: String { String(buffer: content) }
        /// The code of a close frame.
        var code: UInt16? { opcode == 8 ? content.getInteger(at: content.readerIndex) : nil }
        /// The reason of a close frame.
        var reason: String { String(decoding: content.readableBytesView.dropFirst(2), as: UTF8.self) }
    }

    static let key = "dGhlIHNhbXBsZSBub25jZQ=="

    private(set) var status = 0
    /// The answer's lines after the first, lower-cased names.
    private(set) var headers: [String: String] = [:]
    private var inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator
    private let channel: any Channel
    private var received = ByteBuffer()
    private var atEnd = false

    private init(_ channel: any Channel, _ inbound: NIOAsyncChannelInboundStream<ByteBuffer>) {
        self.channel = channel
        self.inbound = inbound.makeAsyncIterator()
    }

    /// Connects, sends the handshake and runs `body` after the answer, whatever that is.
    /// - Parameter early: bytes sent together with the handshake.
    static func open(
        port: Int,
        _ target: String,
        headers: [(String, String)] = [],
        omitting: Set<String> = [],
        token: String? = TestClient.token,
        early: ByteBuffer = ByteBuffer(),
        _ body: (TestSocket) async throws -> Void
    ) async throws {
        // A small window, so that a client that does not read is noticed after little.
        let bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.socketOption(.so_rcvbuf), value: 64 << 10)
        let channel = try await bootstrap.connect(host: "127.0.0.1", port: port) { channel in
            channel.eventLoop.makeCompletedFuture {
                try NIOAsyncChannel<ByteBuffer, Never>(wrappingChannelSynchronously: channel)
            }
        }
        // A test that waits for what never comes must fail and not hang.
        let alarm = channel.channel.eventLoop.scheduleTask(in: .seconds(60)) {
            channel.channel.close(promise: nil)
        }
        defer { alarm.cancel() }
        try await channel.executeThenClose { inbound in
            let socket = TestSocket(channel.channel, inbound)
            var all = standardHeaders.filter { !omitting.contains($0.0) }
            if let token { all.append(("X-Martlet-Token", token)) }
            try await socket.handshake(target, all + headers, early)
            try await body(socket)
        }
    }

    private static let standardHeaders = [
        ("Host", "sandbox"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]

    /// Sends another handshake on the same connection, after an ordinary answer without a body.
    func upgrade(_ target: String) async throws {
        try await handshake(target, Self.standardHeaders + [("X-Martlet-Token", TestClient.token)], ByteBuffer())
    }

    private func handshake(_ target: String, _ headers: [(String, String)], _ early: ByteBuffer) async throws {
        var request = ByteBuffer(string: "GET \(target) HTTP/1.1\r\n")
        for (name, value) in headers { request.writeString("\(name): \(value)\r\n") }
        request.writeString("\r\n")
        request.writeImmutableBuffer(early)
        try await sendRaw(request)
        while true {
            if let end = received.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8)) {
                let head = received.readString(length: end.upperBound - received.readerIndex)
                parseHead(try #require(head))
                return
            }
            let more = try await receiveMore()
            try #require(more, "the connection ended before the answer")
        }
    }

    private func parseHead(_ head: String) {
        let lines = head.split(separator: "\r\n")
        status = lines[0].split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            headers[parts[0].lowercased()] = String(parts[1].drop { $0 == " " })
        }
    }

    private func receiveMore() async throws -> Bool {
        guard !atEnd else { return false }
        do {
            if let piece = try await inbound.next() {
                received.writeImmutableBuffer(piece)
                return true
            }
        } catch {
            // A reset is an end as well.
        }
        atEnd = true
        return false
    }

    /// Everything that comes until the other end closes.
    func rest() async throws -> String {
        while try await receiveMore() {}
        return String(buffer: received)
    }

    static func frame(
        _ opcode: UInt8,
        _ content: ByteBuffer,
        fin: Bool = true,
        masked: Bool = true,
        reserved: UInt8 = 0
    )
        -> ByteBuffer
    {
        var frame = ByteBuffer(integer: (fin ? 0x80 : 0) | reserved | opcode)
        let mask: UInt8 = masked ? 0x80 : 0
        let count = content.readableBytes
        switch count {
        case ..<126: frame.writeInteger(mask | UInt8(count))
        case ..<65536: frame.writeMultipleIntegers(mask | 126, UInt16(count))
        default: frame.writeMultipleIntegers(mask | 127, UInt64(count))
        }
        guard masked else {
            frame.writeImmutableBuffer(content)
            return frame
        }
        let key: [UInt8] = [1, 2, 3, 4]
        frame.writeBytes(key)
        frame.writeBytes(content.readableBytesView.enumerated().map { $1 ^ key[$0 % 4] })
        return frame
    }

    func send(_ opcode: UInt8, _ content: ByteBuffer, fin: Bool = true, masked: Bool = true, reserved: UInt8 = 0)
        async throws
    {
        try await sendRaw(Self.frame(opcode, content, fin: fin, masked: masked, reserved: reserved))
    }

    func send(_ text: String) async throws { try await send(1, ByteBuffer(string: text)) }

    func sendBinary(_ text: String) async throws { try await send(2, ByteBuffer(string: text)) }

    func sendClose(_ code: UInt16) async throws { try await send(8, ByteBuffer(integer: code)) }

    /// Waits until the kernel took it.
    func sendRaw(_ bytes: ByteBuffer) async throws { try await channel.writeAndFlush(bytes).get() }

    /// Stops or resumes taking bytes from the kernel, as a program does that is too slow.
    func setReading(_ reads: Bool) async throws { try await channel.setOption(.autoRead, value: reads).get() }

    /// The next frame as it is; nil at the end of the connection.
    func nextFrame() async throws -> Frame? {
        while true {
            if let frame = try takeFrame() { return frame }
            guard try await receiveMore() else { return nil }
        }
    }

    /// The next whole message or close frame. Pings are answered, pongs skipped.
    func next() async throws -> Frame? {
        var message: Frame?
        while let frame = try await nextFrame() {
            switch frame.opcode {
            case 9: try await send(10, frame.content)
            case 10: continue
            case 8: return frame
            default:
                var whole = message ?? Frame(opcode: frame.opcode, content: ByteBuffer())
                whole.content.writeImmutableBuffer(frame.content)
                if frame.fin { return whole }
                message = whole
            }
        }
        return nil
    }

    private func takeFrame() throws -> Frame? {
        var bytes = received
        guard let first = bytes.readInteger(as: UInt8.self), let second = bytes.readInteger(as: UInt8.self) else {
            return nil
        }
        try #require(second & 0x80 == 0, "a server's frame must not be masked")
        try #require(first & 0x70 == 0, "a reserved bit is set")
        var count = Int(second)
        if second == 126 {
            guard let length = bytes.readInteger(as: UInt16.self) else { return nil }
            count = Int(length)
        } else if second == 127 {
            guard let length = bytes.readInteger(as: UInt64.self) else { return nil }
            count = Int(length)
        }
        guard let content = bytes.readSlice(length: count) else { return nil }
        received = bytes
        received.discardReadBytes()
        return Frame(opcode: first & 0x0F, content: content, fin: first & 0x80 != 0)
    }
}
