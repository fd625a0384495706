import Domain
import FoundationEssentials
import NIOCore
import NIOPosix

/// What only the runner knows and the daemon is told: after each start, and when it changes.
struct DaemonGreeting: Sendable {
    var token: String
    /// Quota of the sandbox's disk, if it has one.
    var diskBytes: Int64?
    /// Whether terminals that are opened from now on are recorded.
    var recordsTerminals = false

    /// As a whole request.
    var request: String {
        let quota = diskBytes.map { "X-Martlet-Disk-Bytes: \($0)\r\n" } ?? ""
        return "POST /init HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Martlet-Token: \(token)\r\n\(quota)"
            + "X-Martlet-Record-Terminals: \(recordsTerminals)\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    }
}

/// Tells the daemon in a sandbox what only the runner knows and learns its version, through the sandbox's network namespace, as the ingress would.
struct DaemonProbe: Sendable {
    /// Port of the daemon on the sandbox's loopback.
    static let port = 2280
    /// The longest answer that is read. Whatever runs in the sandbox may answer in the daemon's place.
    static let answerBytesLimit = 16 << 10
    /// For one connection with its answer.
    static let attemptDeadline = TimeAmount.seconds(2)

    let dialer: NamespaceDialer
    let group: any EventLoopGroup

    /// An attempt has less time than a tunnel has.
    private static let limits = {
        var limits = IngressLimits()
        limits.dialDeadline = attemptDeadline
        return limits
    }()

    /// One attempt; answers the daemon's version. To be repeated after each start of the sandbox, and harmless at any other
    /// time: the daemon keeps the token in memory only. Throws when nothing answers, or not as the daemon does.
    func greet(_ sandbox: SandboxID, at target: SandboxTarget, _ greeting: DaemonGreeting) async throws -> String {
        let loop = group.next()
        let answer = loop.makePromise(of: ByteBuffer.self)
        let dialed = dialer.dial(target, of: sandbox, port: Self.port, limits: Self.limits, on: loop) { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(AnswerCollector(answer, limit: Self.answerBytesLimit))
            }
        }
        dialed.whenFailure { answer.fail($0) }
        let channel = try await dialed.get()
        let timeout = loop.scheduleTask(in: Self.attemptDeadline) { channel.close(promise: nil) }
        defer {
            timeout.cancel()
            channel.close(promise: nil)
        }
        try await channel.writeAndFlush(ByteBuffer(string: greeting.request))
        return try Self.version(in: try await answer.futureResult.get())
    }

    /// The version in an answer's body, whatever framing it has: the body is one JSON object.
    static func version(in answer: ByteBuffer) throws -> String {
        // A sandbox keeps the daemon that it was made with; the first ones said no version here.
        struct Body: Decodable {
            let message: String
            let version: String?
        }
        let text = String(buffer: answer)
        let status = text.split(separator: " ", maxSplits: 2).dropFirst().first ?? ""
        guard status == "200" else {
            throw RunnerError(
                .daemonSilent,
                "port \(port) in the sandbox answers with status '\(status.prefix(20))' instead of the daemon"
            )
        }
        guard let start = text.firstIndex(of: "{"), let end = text.lastIndex(of: "}"),
            let body = try? JSONDecoder().decode(Body.self, from: Data(text[start...end].utf8))
        else { throw RunnerError(.daemonSilent, "port \(port) in the sandbox does not answer as the daemon does") }
        return String((body.version ?? "unknown").prefix(64))
    }
}

/// Collects what comes until the other side ends.
private final class AnswerCollector: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let answer: EventLoopPromise<ByteBuffer>
    private let limit: Int
    private var collected = ByteBuffer()

    init(_ answer: EventLoopPromise<ByteBuffer>, limit: Int) {
        self.answer = answer
        self.limit = limit
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        collected.writeImmutableBuffer(unwrapInboundIn(data))
        if collected.readableBytes > limit { context.close(promise: nil) }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event { context.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        answer.fail(error)
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        answer.succeed(collected)
    }
}
