import NIOCore
import NIOPosix
import Synchronization
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// One TCP connection, byte by byte: the client's or the sandbox server's side of a test. For one task.
final class Wire {
    let channel: any Channel
    private let outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    private var inbound: NIOAsyncChannelInboundStream<ByteBuffer>.AsyncIterator
    private(set) var unread = ByteBuffer()

    init(
        _ channel: any Channel,
        _ inbound: NIOAsyncChannelInboundStream<ByteBuffer>,
        _ outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    ) {
        self.channel = channel
        self.inbound = inbound.makeAsyncIterator()
        self.outbound = outbound
    }

    /// Waits while the other side does not read.
    func send(_ text: String) async throws { try await outbound.write(ByteBuffer(string: text)) }
    func send(_ bytes: ByteBuffer) async throws { try await outbound.write(bytes) }

    /// What arrives next, or nil at the end.
    func receive() async throws -> ByteBuffer? {
        if unread.readableBytes > 0 {
            defer { unread = ByteBuffer() }
            return unread
        }
        return try await inbound.next(isolation: #isolation)
    }

    /// Up to and with `end`. Throws if the connection ends before.
    func read(through end: String) async throws -> String {
        let wanted = Array(end.utf8)
        while true {
            let view = unread.readableBytesView
            if view.count >= wanted.count {
                for start in view.startIndex...(view.endIndex - wanted.count)
                where view[start..<(start + wanted.count)].elementsEqual(wanted) {
                    return unread.readString(length: start + wanted.count - view.startIndex)!
                }
            }
            try await more()
        }
    }

    func read(_ count: Int) async throws -> String {
        while unread.readableBytes < count { try await more() }
        return unread.readString(length: count)!
    }

    /// Everything until the other side ends; throws where it resets.
    func readToEnd() async throws -> String {
        while var bytes = try await inbound.next(isolation: #isolation) { unread.writeBuffer(&bytes) }
        defer { unread = ByteBuffer() }
        return String(buffer: unread)
    }

    private func more() async throws {
        guard var bytes = try await inbound.next(isolation: #isolation) else {
            throw TestFailure("the connection ended after: \(String(buffer: unread))")
        }
        unread.writeBuffer(&bytes)
    }

    /// Ends this direction only.
    func finish() { outbound.finish() }

    /// Resets the connection.
    func reset() async throws {
        try await (channel as? any SocketOptionProvider)?.setSoLinger(linger(l_onoff: 1, l_linger: 0)).get()
        try await channel.close()
    }

    func close() async throws { try await channel.close() }

    // MARK: HTTP, as simple as a test needs it

    /// A head with its empty line.
    func readHead() async throws -> String { try await read(through: "\r\n\r\n") }

    /// A response or request with Content-Length, or without body.
    func readMessage() async throws -> Message {
        let head = try await readHead()
        let message = Message(head: head)
        guard let length = message["content-length"].flatMap({ Int($0) }) else { return message }
        return Message(head: head, body: try await read(length))
    }

    /// Answers with 200 and `body`.
    func answer(_ body: String = "ok", status: String = "200 OK", extra: String = "") async throws {
        try await send("HTTP/1.1 \(status)\r\n\(extra)Content-Length: \(body.utf8.count)\r\n\r\n\(body)")
    }
}

/// Said by one side of a test and awaited by the other.
final class Signal: Sendable {
    private let isGiven = Mutex(false)

    func give() { isGiven.withLock { $0 = true } }
    func wait() async throws { try await eventually("signal") { isGiven.withLock { $0 } } }
}

/// A head taken apart without strictness, and its body.
struct Message: Sendable {
    let head: String
    var body = ""

    var firstLine: String { String(head.prefix { $0 != "\r\n" }) }
    var status: Int { Int(head.split(separator: " ").dropFirst().first ?? "") ?? 0 }

    subscript(name: String) -> String? { values(name).first }

    func values(_ name: String) -> [String] {
        head.split(separator: "\r\n").dropFirst().compactMap { line in
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, parts[0].lowercased() == name else { return nil }
            return parts[1].trimmingPrefix(while: { $0 == " " }).description
        }
    }
}

extension Wire {
    /// Connects and runs `body`; the connection is closed afterwards.
    static func connect<Value: Sendable>(
        to address: SocketAddress,
        _ body: (Wire) async throws -> Value
    ) async throws -> Value {
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .connect(to: address) { channel in channel.eventLoop.makeCompletedFuture { try wrap(channel) } }
        return try await use(channel, body)
    }

    /// Runs `body` on a connection and closes it. That the other side was quicker with closing is no failure.
    static func use<Value: Sendable>(_ channel: Arrival, _ body: (Wire) async throws -> Value) async throws -> Value {
        let kept = Kept<Value>()
        do {
            return try await channel.executeThenClose { inbound, outbound in
                let value = try await body(Wire(channel.channel, inbound, outbound))
                kept.value.withLock { $0 = value }
                return value
            }
        } catch {
            guard let value = kept.value.withLock({ $0 }) else { throw error }
            return value
        }
    }

    private final class Kept<Value: Sendable>: Sendable {
        let value = Mutex<Value?>(nil)
    }

    static func wrap(_ channel: any Channel) throws -> NIOAsyncChannel<ByteBuffer, ByteBuffer> {
        try NIOAsyncChannel(
            wrappingChannelSynchronously: channel,
            configuration: .init(
                backPressureStrategy: .init(lowWatermark: 1, highWatermark: 2),
                isOutboundHalfClosureEnabled: true
            )
        )
    }
}
