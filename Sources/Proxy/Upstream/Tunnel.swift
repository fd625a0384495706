import Domain
import Logging
import NIOCore
import NIOSSL
import Tunnels

/// What makes two tunnels interchangeable.
struct TunnelKey: Hashable {
    var sandbox: SandboxID
    var port: Int
    var epoch: Int
}

/// Why there is no tunnel.
struct TunnelFailure: Error {
    var refusal: ProxyRefusal
    /// The runner does not hold what the route says: the route must be read again.
    var routeIsStale: Bool
}

/// One connection to a server in a sandbox: TLS to the runner's ingress, CONNECT, then HTTP/1.1. Or the sandbox's own
/// connection, where a runner of this host handed it over: then it is open from the start.
///
///     opening ──200──▶ idle ◀──response complete── body
///        │              │ begin                     ▲
///        ▼              ▼                           │ head
///      closed ◀── awaitingHead ────────────────────┴──101──▶ raw
///
/// Lives on one event loop together with the client connection that it serves; the two call each other directly.
final class Tunnel: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum Phase { case opening, idle, awaitingHead, body, raw, closed }

    let key: TunnelKey
    private(set) var phase = Phase.opening
    /// Whether it has served a request already, so that its server may have closed it meanwhile.
    private(set) var wasUsed = false
    private(set) var idleSince = NIODeadline.now()
    private(set) var lastMoved = NIODeadline.now()

    private let destination: Destination
    private let limits: ProxyLimits
    private let pool: TunnelPool
    private var opened: ((Result<Tunnel, TunnelFailure>) -> Void)?
    private var lease: HandedOverSocket?
    private var context: ChannelHandlerContext?
    private var received = ByteBuffer()
    private var search = HeadSearch()
    private var readIsPending = false
    private var inputEnded = false
    private var outputEnded = false

    // The exchange that is being served.
    private var client: ClientConnection?
    private var exchange: Exchange?
    private var scanner = BodyScanner(.none, allowsTrailers: true)
    private var change = ResponseHead.BodyChange.none
    private var isReusable = false

    init(
        _ key: TunnelKey,
        to destination: Destination,
        pool: TunnelPool,
        limits: ProxyLimits,
        opened: @escaping (Result<Tunnel, TunnelFailure>) -> Void
    ) {
        self.key = key
        self.destination = destination
        self.pool = pool
        self.limits = limits
        self.opened = opened
    }

    var isWritable: Bool { context?.channel.isWritable ?? false }
    /// One side has ended; in a raw tunnel the other may go on.
    var isHalfClosed: Bool { inputEnded || outputEnded }

    /// The channel will be this socket, whose runner counts the tunnel for as long as it is open.
    func adopt(_ socket: HandedOverSocket) { lease = socket }

    // MARK: Used by the client connection

    /// Sends a request's first bytes; its response goes to `client`.
    func begin(_ exchange: Exchange, for client: ClientConnection, bytes: ByteBuffer) {
        self.client = client
        self.exchange = exchange
        phase = .awaitingHead
        send(bytes)
    }

    func send(_ bytes: ByteBuffer) {
        lastMoved = .now()
        context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }

    /// The client's end of input, in a raw tunnel.
    func finishSending() {
        outputEnded = true
        context?.closeAfterWrites(mode: .output)
    }

    func resumeReading() {
        guard readIsPending else { return }
        readIsPending = false
        context?.read()
    }

    /// Cuts the connection: the server sees a reset, and stops what it does for this request.
    func abandon() {
        guard phase != .closed else { return }
        close()
        context?.closeAbruptly()
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        close()
    }

    /// TLS holds this back until its handshake, and with it the pin, is good.
    func channelActive(context: ChannelHandlerContext) {
        if lease == nil { send(ByteBuffer(string: destination.connectHead(port: key.port))) } else { becomeOpen() }
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        lastMoved = .now()
        switch phase {
        case .body: pass(&bytes)
        case .raw: client?.write(bytes)
        case .awaitingHead:
            gather(&bytes)
            readHead()
        case .opening:
            gather(&bytes)
            readConnectAnswer()
        case .idle: abandon()  // A server that speaks unasked is not trusted with another request.
        case .closed: break
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        client?.flush()
    }

    func read(context: ChannelHandlerContext) {
        if let client, !client.isWritable { readIsPending = true } else { context.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { client?.resumeReading() }
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event { ended() } else { context.fireUserInboundEventTriggered(event) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if phase == .raw, inputEnded || outputEnded {
            // Where output had ended before, the end of input comes as this alone; a reset comes as an error first.
            client?.finishSending()
            close()
        } else {
            fail("the connection to the sandbox was lost")
        }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case is NIOSSLError where phase == .opening, is BoringSSLError where phase == .opening:
            refuse(.badGateway("the runner's TLS certificate is not the one in its row, or TLS failed; see its log"))
        default:
            fail("the connection to the sandbox was lost")
        }
    }

    // MARK: Opening

    private func readConnectAnswer() {
        guard let length = search.length(in: received), let head = received.readSlice(length: length) else {
            if received.readableBytes > limits.headBytesLimit { refuse(.badGateway("the runner's answer is too long")) }
            return
        }
        guard let answer = try? ResponseHead(head, limits: limits) else {
            return refuse(.badGateway("the runner did not answer CONNECT with HTTP; is its ingress address right?"))
        }
        guard answer.status == 200 else { return refuse(Self.refusal(answer.status, received)) }
        becomeOpen()
    }

    private func becomeOpen() {
        phase = .idle
        idleSince = .now()
        settle(.success(self))
    }

    /// The runner's message is passed on; which status the client gets is decided here.
    static func refusal(_ status: Int, _ body: ByteBuffer) -> ProxyRefusal {
        let text =
            IngressConnector.reason(in: body.readableBytesView) ?? "the runner refused the tunnel with status \(status)"
        return switch status {
        case 404: .unavailable(text)
        case 409: ProxyRefusal(409, "CONFLICT", text)
        case 503: ProxyRefusal(429, "TOO_MANY_REQUESTS", text)
        case 504: .timeout(text)
        default: .badGateway(text)
        }
    }

    func refuse(_ refusal: ProxyRefusal) {
        let opening = phase == .opening
        close()
        context?.closeAbruptly()
        let isStale = refusal.status == 409 || refusal.status == 503 || refusal.status == 502
        if opening { settle(.failure(TunnelFailure(refusal: refusal, routeIsStale: isStale))) }
    }

    private func settle(_ result: Result<Tunnel, TunnelFailure>) {
        let opened = opened
        self.opened = nil
        opened?(result)
    }

    // MARK: Response

    private func gather(_ bytes: inout ByteBuffer) {
        if received.readableBytes == 0 { swap(&received, &bytes) } else { received.writeBuffer(&bytes) }
    }

    private func readHead() {
        while phase == .awaitingHead {
            guard let length = search.length(in: received) else {
                if received.readableBytes > limits.headBytesLimit { fail("its response head is too long") }
                return
            }
            guard length <= limits.headBytesLimit, let bytes = received.readSlice(length: length) else {
                return fail("its response head is too long")
            }
            do {
                try accept(ResponseHead(bytes, limits: limits))
            } catch {
                return fail("its response is not valid HTTP: \(error.message)")
            }
        }
    }

    private func accept(_ head: ResponseHead) throws(ProxyRefusal) {
        guard let client, let exchange else { return }
        exchange.replay = nil
        switch head.status {
        case 101: try upgrade(head, client, exchange)
        case 100: break  // The proxy has said so itself.
        case 102..<200: if exchange.head.minorVersion == 1 { client.write(head.written(change: .none, closes: false)) }
        default: respond(head, client, exchange)
        }
    }

    private func upgrade(_ head: ResponseHead, _ client: ClientConnection, _ exchange: Exchange) throws(ProxyRefusal) {
        guard exchange.head.upgradesToWebSocket, head.fields.namesWebSocket else {
            throw .badGateway("it switched to a protocol that was not asked for")
        }
        phase = .raw
        exchange.responseBegan = true
        client.write(head.written(change: .none, closes: false))
        if received.readableBytes > 0 { client.write(received) }
        received = ByteBuffer()
        client.becomeRaw()
    }

    private func respond(_ head: ResponseHead, _ client: ClientConnection, _ exchange: Exchange) {
        let framing = head.framing(answeringHEAD: exchange.head.isHEAD)
        let isOld = exchange.head.minorVersion == 0
        scanner = BodyScanner(framing, allowsTrailers: true)
        switch framing {
        case .chunked: change = isOld ? .dechunk : .none
        case .untilClose: change = isOld ? .none : .chunk
        case .none, .length: change = .none
        }
        isReusable = framing != .untilClose && head.minorVersion == 1 && !head.fields.wantsClose
        phase = .body
        exchange.responseBegan = true
        var bytes = head.written(change: change, closes: client.willClose(after: exchange))
        if change == .none, scanner.fits(received) {
            passTogether(&bytes, client)
        } else {
            client.write(bytes)
            var rest = received
            received = ByteBuffer()
            pass(&rest)
        }
    }

    /// Head and a small body go out as one piece.
    private func passTogether(_ head: inout ByteBuffer, _ client: ClientConnection) {
        do {
            let taken = try received.withScanned(&scanner) { _ in }
            if var slice = received.readSlice(length: taken) { head.writeBuffer(&slice) }
            client.write(head)
        } catch {
            return fail("its response is not valid HTTP: \(error.message)")
        }
        if scanner.isComplete { finish(leftover: received.readableBytes) }
    }

    private func pass(_ bytes: inout ByteBuffer) {
        do {
            switch change {
            case .none:
                let taken = try bytes.withScanned(&scanner) { _ in }
                if taken > 0, let slice = bytes.readSlice(length: taken) { client?.write(slice) }
            case .dechunk: try passData(&bytes) { client?.write($0) }
            case .chunk:
                try passData(&bytes) { data in
                    client?.write(ByteBuffer(string: String(data.readableBytes, radix: 16) + "\r\n"))
                    client?.write(data)
                    client?.write(ByteBuffer(string: "\r\n"))
                }
            }
        } catch {
            return fail("its response is not valid HTTP: \(error.message)")
        }
        if scanner.isComplete { finish(leftover: bytes.readableBytes) }
    }

    private func passData(_ bytes: inout ByteBuffer, _ write: (ByteBuffer) -> Void) throws(ProxyRefusal) {
        var places: [Range<Int>] = []
        let taken = try bytes.withScanned(&scanner) { places.append($0) }
        for place in places {
            if let slice = bytes.getSlice(at: bytes.readerIndex + place.lowerBound, length: place.count) {
                write(slice)
            }
        }
        bytes.moveReaderIndex(forwardBy: taken)
    }

    /// The response is complete: back to the pool, if nothing speaks against it.
    private func finish(leftover: Int) {
        let (client, exchange) = (client, exchange)
        self.client = nil
        self.exchange = nil
        received = ByteBuffer()
        wasUsed = true
        if isReusable, leftover == 0, exchange?.body.isComplete ?? false {
            phase = .idle
            idleSince = .now()
            pool.give(self)
            if readIsPending { resumeReading() }
        } else {
            abandon()
        }
        client?.responseFinished()
    }

    // MARK: Ends

    /// The server has sent all that it will.
    private func ended() {
        switch phase {
        case .body where scanner.endsWithConnection:
            if change == .chunk { client?.write(ByteBuffer(string: "0\r\n\r\n")) }
            finish(leftover: 0)
        case .raw:
            inputEnded = true
            client?.finishSending()
        case .opening, .idle, .awaitingHead, .body: fail("the sandbox closed the connection")
        case .closed: break
        }
    }

    private func fail(_ reason: String) {
        guard phase != .closed else { return }
        let opening = phase == .opening
        let client = client
        abandon()
        if opening {
            settle(.failure(TunnelFailure(refusal: .badGateway("no tunnel: \(reason)"), routeIsStale: true)))
        }
        client?.tunnelFailed(self, reason)
    }

    private func close() {
        guard phase != .closed else { return }
        phase = .closed
        client = nil
        exchange = nil
        lease = nil
        pool.forget(self)
    }
}

extension ResponseHead {
    func written(change: BodyChange, closes: Bool) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.reserveCapacity(bytes.readableBytes + 512)
        write(to: &buffer, change: change, closes: closes)
        return buffer
    }
}

extension BodyScanner {
    /// Small enough to be copied behind its head, which saves a write.
    func fits(_ bytes: ByteBuffer) -> Bool { bytes.readableBytes <= 8 * 1024 }
}

extension ByteBuffer {
    /// Scans the readable bytes; they stay.
    func withScanned(_ scanner: inout BodyScanner, visit: (Range<Int>) -> Void) throws(ProxyRefusal) -> Int {
        let result = withUnsafeReadableBytes { bytes in
            Result { () throws(ProxyRefusal) in try scanner.scan(bytes, visit: visit) }
        }
        return try result.get()
    }
}
