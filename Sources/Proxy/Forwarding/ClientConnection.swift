import Domain
import Logging
import NIOCore
import Tunnels

#if canImport(Glibc)
    import Glibc
#endif

/// One client's connection: HTTP/1.1 requests one after the other, each handed to a sandbox.
///
///     head ──complete──▶ waiting (authorise, route, tunnel) ──▶ exchanging ──response complete──▶ head …
///       │                   │ refused                               │                        └─▶ lingering
///       │                   ▼                                       └──101──▶ raw
///       └──malformed──▶ (answer) ─▶ head, or lingering where the rest of the request is unread ─▶ closed
///
/// Nothing is read while what was read cannot be passed on, and no body is ever held as a whole. An error before
/// the response's head becomes an answer; one after it cuts the connection, so that no body looks complete by mistake.
final class ClientConnection: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum Phase { case head, waiting, exchanging, raw, lingering, closed }

    let lane: Lane
    private(set) var phase = Phase.head
    var exchange: Exchange?
    var inbound = ByteBuffer()
    private(set) var context: ChannelHandlerContext?
    private var search = HeadSearch()
    private var readIsPending = false
    private var outputIsFinished = false
    private var phaseSince = NIODeadline.now()
    private var lastMoved = NIODeadline.now()
    private var address = "unknown"

    init(lane: Lane) {
        self.lane = lane
    }

    var isWritable: Bool { context?.channel.isWritable ?? false }
    var clientAddress: String { address }
    /// Whether it is between two requests.
    var isIdle: Bool { phase == .head && inbound.readableBytes == 0 }

    func enter(_ phase: Phase) {
        self.phase = phase
        phaseSince = .now()
        lastMoved = phaseSince
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        address = context.remoteAddress?.ipAddress ?? "unknown"
        lane.join(self)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        leave()
    }

    func channelInactive(context: ChannelHandlerContext) {
        leave()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        lastMoved = .now()
        switch phase {
        case .raw: exchange?.tunnel?.send(bytes)
        case .lingering, .closed: break
        case .head, .waiting, .exchanging:
            if inbound.readableBytes == 0 {
                if phase == .head { phaseSince = .now() }
                swap(&inbound, &bytes)
            } else {
                inbound.writeBuffer(&bytes)
            }
            advance()
        }
    }

    /// Back-pressure: what cannot be passed on stays in the kernel.
    func read(context: ChannelHandlerContext) {
        if wantsBytes { context.read() } else { readIsPending = true }
    }

    private var wantsBytes: Bool {
        switch phase {
        case .head, .lingering, .closed: true
        case .raw: exchange?.tunnel?.isWritable ?? false
        case .waiting: inbound.readableBytes < lane.limits.pendingBytesLimit
        case .exchanging:
            if exchange?.body.isComplete ?? true {
                inbound.readableBytes < lane.limits.pendingBytesLimit
            } else {
                exchange?.tunnel?.isWritable ?? false
            }
        }
    }

    func resumeReading() {
        lastMoved = .now()
        guard readIsPending, wantsBytes else { return }
        readIsPending = false
        context?.read()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        lastMoved = .now()
        if context.channel.isWritable { exchange?.tunnel?.resumeReading() }
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event else { return context.fireUserInboundEventTriggered(event) }
        if phase == .raw { exchange?.tunnel?.finishSending() } else { context.close(mode: .all, promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.closeAbruptly()
    }

    /// The client is gone: what the sandbox does for it must stop.
    private func leave() {
        guard phase != .closed else { return }
        let isCleanEnd = phase == .raw && outputIsFinished
        phase = .closed
        if isCleanEnd { exchange?.tunnel?.finishSending() } else { exchange?.tunnel?.abandon() }
        exchange = nil
        lane.leave(self)
    }

    // MARK: Parsing

    /// Does all that can be done with the bytes that are there.
    func advance() {
        while phase == .head, inbound.readableBytes > 0, parseHead() {}
        if phase == .exchanging { sendBody() }
    }

    /// False where more bytes are needed, or none are wanted any more.
    private func parseHead() -> Bool {
        let limit = lane.limits.headBytesLimit
        let length = search.length(in: inbound)
        guard (length ?? inbound.readableBytes) <= limit else {
            answer(ProxyRefusal(431, "BAD_REQUEST", "the request head exceeds \(limit) bytes; send less"), closes: true)
            return false
        }
        guard let length, let bytes = inbound.readSlice(length: length) else { return false }
        do {
            try begin(RequestHead(bytes, limits: lane.limits))
        } catch {
            answer(error, closes: true)
        }
        return phase == .head
    }

    // MARK: Used by the tunnel

    func write(_ bytes: ByteBuffer) {
        context?.write(wrapOutboundOut(bytes), promise: nil)
    }

    func flush() {
        context?.flush()
    }

    /// End of output after all bytes that are written; input is thrown away until the client closes too.
    func finishSending() {
        outputIsFinished = true
        context?.closeAfterWrites(mode: .output)
    }

    func becomeRaw() {
        enter(.raw)
        flush()
        if inbound.readableBytes > 0 {
            exchange?.tunnel?.send(inbound)
            inbound = ByteBuffer()
        }
        resumeReading()
    }

    func willClose(after exchange: Exchange) -> Bool { !exchange.head.keepsAlive || lane.isDraining }

    /// The response went out whole: next request, or the end.
    func responseFinished() {
        guard let exchange else { return flush() }
        self.exchange = nil
        flush()
        if exchange.body.isComplete, !willClose(after: exchange) {
            enter(.head)
            resumeReading()
            advance()
        } else {
            linger()
        }
    }

    /// Closes without a reset that could overtake the answer: output ends, input is drained for a while.
    func linger() {
        enter(.lingering)
        inbound = ByteBuffer()
        finishSending()
        resumeReading()
    }

    /// Ends a connection in the middle of a response.
    ///
    /// Where the response tells its own length, what was written still goes out and the cut shows by itself; where its
    /// end is the connection's end, only a reset shows that it is not whole.
    func cut() {
        if phase == .exchanging, exchange?.head.minorVersion == 1 {
            flush()
            context?.close(mode: .all, promise: nil)
        } else {
            context?.closeAbruptly()
        }
    }

    // MARK: Answers of the proxy's own

    /// Answers instead of a sandbox. `closes` where the end of the request is not known.
    func answer(_ refusal: ProxyRefusal, closes: Bool) {
        let exchange = exchange
        self.exchange = nil
        lane.log.debug(
            "request refused",
            metadata: ["response.status": "\(refusal.status)", "refusal.reason": "\(refusal.message)"]
        )
        let path = exchange.map { $0.head.text($0.head.target) } ?? ""
        respond(
            refusal.response(
                path: String(path.prefix { $0 != "?" }),
                requestID: exchange?.id ?? lane.nextRequestID(),
                closes: closes,
                omitsBody: exchange?.head.isHEAD ?? false
            ),
            closes: closes
        )
    }

    func respond(_ bytes: ByteBuffer, closes: Bool) {
        write(bytes)
        flush()
        if closes {
            linger()
        } else {
            enter(.head)
            resumeReading()
        }
    }

    // MARK: Deadlines, looked at once a second

    func tick(now: NIODeadline) {
        let limits = lane.limits
        switch phase {
        case .head where inbound.readableBytes > 0:
            if phaseSince + limits.headDeadline <= now {
                answer(ProxyRefusal(408, "REQUEST_TIMEOUT", "the request head did not come in time"), closes: true)
            }
        case .head:
            if phaseSince + limits.keepAliveLimit <= now { context?.close(mode: .all, promise: nil) }
        case .waiting:
            if phaseSince + limits.lookupDeadline + limits.tunnelDeadline <= now {
                answer(.timeout("no tunnel to the sandbox could be opened in time; try again"), closes: true)
            }
        case .exchanging:
            refreshActivity(now: now)
            if isStalled && lastMoved + limits.stallLimit <= now || isForgotten(now: now) { cut() }
        case .raw:
            refreshActivity(now: now)
            if !isWritable && lastMoved + limits.stallLimit <= now || isForgotten(now: now) { cut() }
        case .lingering:
            if phaseSince + limits.lingerDeadline <= now { context?.close(mode: .all, promise: nil) }
        case .closed: break
        }
    }

    /// Whether it is the client that everything waits for: to read its response, or to send the rest of its request.
    private var isStalled: Bool {
        guard isWritable else { return true }
        guard let exchange, !exchange.body.isComplete, !exchange.responseBegan else { return false }
        return exchange.tunnel?.isWritable ?? false
    }

    /// Whether nothing has moved through the tunnel for so long that nobody can be waiting any more.
    private func isForgotten(now: NIODeadline) -> Bool {
        guard let tunnel = exchange?.tunnel else { return false }
        let limit = tunnel.isHalfClosed ? lane.limits.halfClosedIdleLimit : lane.limits.exchangeIdleLimit
        return tunnel.lastMoved + limit <= now
    }

    private func refreshActivity(now: NIODeadline) {
        guard let exchange, exchange.lastMarked + lane.limits.activityRefresh <= now else { return }
        exchange.lastMarked = now
        markActivity(exchange)
    }

    func markActivity(_ exchange: Exchange) {
        if !exchange.head.fields.skipsActivity { lane.activity.mark(exchange.path.sandbox) }
    }
}
