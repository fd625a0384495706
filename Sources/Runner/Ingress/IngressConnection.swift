import Crypto
import Domain
import FoundationEssentials
import Logging
import NIOCore
import Tunnels

/// What all connections of one ingress share.
struct IngressContext: Sendable {
    let secret: SymmetricKey
    let limits: IngressLimits
    let dialing: any SandboxDialing
    let dialer: NamespaceDialer
    let roster: TunnelRoster
    let log: Logger
}

/// Takes one CONNECT from a proxy and becomes a tunnel; or, over a Unix socket, gives the proxy the connection itself.
///
///     head ──complete, token good──▶ dialing ──connected──▶ (replaced by TunnelEnd)
///      │                               │         └─────────▶ handedOver: open for as long as the proxy uses it
///      └──── malformed, late ────┬─────┘ refused
///                                ▼
///                             refused: one answer, then closed
final class IngressConnection: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum Phase { case head, dialing, refused, tunnel, handedOver }

    private let shared: IngressContext
    private let handsOver: Bool
    private var phase = Phase.head
    private var received = ByteBuffer()
    private var readIsPending = false
    private var deadline: Scheduled<Void>?

    /// - Parameter handsOver: whether the channel is a Unix socket, over which what was dialled is handed over.
    init(shared: IngressContext, handsOver: Bool = false) {
        self.shared = shared
        self.handsOver = handsOver
    }

    func handlerAdded(context: ChannelHandlerContext) {
        deadline = context.eventLoop.assumeIsolated().scheduleTask(in: shared.limits.headDeadline) {
            context.closeAbruptly()
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        deadline?.cancel()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        received.writeBuffer(&bytes)
        switch phase {
        case .head: parseHead(context: context)
        case .dialing, .refused, .tunnel: break
        case .handedOver: context.close(mode: .all, promise: nil)  // There is nothing to say here any more.
        }
    }

    /// Early bytes wait in the kernel while the sandbox is dialled.
    func read(context: ChannelHandlerContext) {
        if phase == .dialing { readIsPending = true } else { context.read() }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event {
            context.close(mode: .all, promise: nil)
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        shared.log.debug("ingress connection failed", metadata: ["error": "\(error)"])
        context.closeAbruptly()
    }

    private func parseHead(context: ChannelHandlerContext) {
        guard let length = ConnectRequest.headLength(in: received.readableBytesView),
            length <= shared.limits.headBytesLimit
        else {
            if received.readableBytes > shared.limits.headBytesLimit {
                refuse(.malformed("its head exceeds \(shared.limits.headBytesLimit) bytes"), context: context)
            }
            return
        }
        do {
            let head = received.readString(length: length) ?? ""
            dial(try admitted(ConnectRequest(head: head)), context: context)
        } catch {
            refuse(error as? IngressRefusal ?? .internal("\(error)"), context: context)
        }
    }

    private func admitted(_ request: ConnectRequest) throws -> ConnectRequest {
        let now = Int64(Date().timeIntervalSince1970)
        let good = request.token.admits(
            request.sandbox,
            port: request.port,
            epoch: request.epoch,
            secret: shared.secret,
            now: now,
            lifetimeLimit: shared.limits.tokenLifetimeLimitSeconds
        )
        guard good else { throw IngressRefusal.badToken }
        let limit = shared.limits.tunnelsPerSandboxLimit
        guard shared.roster.book(request.sandbox, limit: limit) else {
            throw IngressRefusal.tooManyTunnels(limit: limit, scope: "to sandbox \(request.sandbox)")
        }
        return request
    }

    /// From here on one tunnel is booked; it is given back when this channel closes.
    private func dial(_ request: ConnectRequest, context: ChannelHandlerContext) {
        phase = .dialing
        deadline?.cancel()
        let (shared, loop, handsOver) = (shared, context.eventLoop, handsOver)
        context.channel.closeFuture.whenComplete { _ in shared.roster.release(request.sandbox) }

        // The loop's task ends with the runner's answer, which has its own deadline; there is one for each new tunnel.
        let target = loop.makeFutureWithTask {
            try await shared.dialing.target(of: request.sandbox, epoch: request.epoch)
        }
        let patience = NIODeadline.now() + (request.port == DaemonProbe.port ? shared.limits.daemonPatience : .zero)
        let connected = target.flatMap { Self.connect(shared, request, $0, handsOver, until: patience, on: loop) }
        connected.assumeIsolated().whenComplete { result in
            switch result {
            case .success(let end) where self.handsOver: self.handOver(end.value.channel, context: context)
            case .success(let end): self.becomeTunnel(end.value.inner, end.value.channel, context: context)
            case .failure(let error): self.refuse(error as? IngressRefusal ?? .internal("\(error)"), context: context)
            }
        }
    }

    private typealias InnerEnd = NIOLoopBound<(inner: TunnelEnd, channel: any Channel)>

    /// A daemon that was killed is followed by another within moments, in which nothing listens on its port: who asks for it
    /// then waits, rather than being told to start a server.
    private static func connect(
        _ shared: IngressContext,
        _ request: ConnectRequest,
        _ target: SandboxTarget,
        _ handsOver: Bool,
        until patience: NIODeadline,
        on loop: any EventLoop
    ) -> EventLoopFuture<InnerEnd> {
        let inner = NIOLoopBound(TunnelEnd(), eventLoop: loop)
        return shared.dialer.dial(
            target,
            of: request.sandbox,
            port: request.port,
            limits: shared.limits,
            on: loop
        ) { channel in
            channel.eventLoop.makeCompletedFuture {
                // What is to be handed over is not read here: the first bytes are the proxy's.
                if handsOver { return try channel.handOverUnread() }
                try channel.pipeline.syncOperations.addHandler(inner.value)
            }
        }.map { channel in
            NIOLoopBound((inner: inner.value, channel: channel), eventLoop: loop)
        }.flatMapError { error in
            guard case IngressRefusal.refusedInside = error, .now() + shared.limits.daemonPause < patience else {
                return loop.makeFailedFuture(error)
            }
            return loop.flatScheduleTask(in: shared.limits.daemonPause) {
                connect(shared, request, target, handsOver, until: patience, on: loop)
            }.futureResult
        }
    }

    private func becomeTunnel(_ inner: TunnelEnd, _ channel: any Channel, context: ChannelHandlerContext) {
        guard context.channel.isActive else { return channel.close(mode: .all, promise: nil) }
        phase = .tunnel
        let outer = TunnelEnd()
        do {
            try context.pipeline.syncOperations.addHandler(outer, position: .after(self))
        } catch {
            channel.close(mode: .all, promise: nil)
            return context.closeAbruptly()
        }
        TunnelEnd.join(outer, inner)
        superviseIdleness(of: outer, inner, context: context)
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: Self.connected)), promise: nil)
        if received.readableBytes > 0 {
            context.fireChannelRead(wrapInboundOut(received))
            context.fireChannelReadComplete()
        }
        if readIsPending { context.read() }
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
    }

    /// Gives the proxy the connection to the sandbox. The tunnel stays booked until the proxy closes this channel.
    private func handOver(_ channel: any Channel, context: ChannelHandlerContext) {
        // The proxy's copy goes on.
        defer { channel.close(mode: .all, promise: nil) }
        guard context.channel.isActive else { return }
        guard received.readableBytes == 0 else {
            return refuse(.malformed("bytes follow the head where a connection is handed over"), context: context)
        }
        do {
            try channel.sendDescriptor(over: context.channel, with: Self.connected)
        } catch {
            return refuse(.internal("the connection could not be handed over: \(error)"), context: context)
        }
        phase = .handedOver
        if readIsPending { context.read() }
    }

    private static let connected = "HTTP/1.1 200 Connected\r\n\r\n"

    private func superviseIdleness(of outer: TunnelEnd, _ inner: TunnelEnd, context: ChannelHandlerContext) {
        let (limits, interval) = (shared.limits, min(shared.limits.halfClosedIdleLimit, .minutes(1)))
        let ends = NIOLoopBound((outer, inner), eventLoop: context.eventLoop)
        let check = context.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { _ in
            let (outer, inner) = ends.value
            let isHalfClosed = outer.inputIsClosed || inner.inputIsClosed
            let limit = isHalfClosed ? limits.halfClosedIdleLimit : limits.idleLimit
            if max(outer.lastMoved, inner.lastMoved) + limit <= .now() { outer.abortTunnel() }
        }
        context.channel.closeFuture.whenComplete { _ in check.cancel() }
    }

    private func refuse(_ refusal: IngressRefusal, context: ChannelHandlerContext) {
        guard context.channel.isActive, phase != .refused else { return }
        phase = .refused
        shared.log.info("tunnel refused", metadata: ["ingress.reason": "\(refusal.message)"])
        let promise = context.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenComplete { _ in context.close(mode: .all, promise: nil) }
        context.writeAndFlush(wrapOutboundOut(Self.answer(refusal)), promise: promise)
    }

    /// The error body that every part of Martlet answers with.
    private static func answer(_ refusal: IngressRefusal) -> ByteBuffer {
        struct Body: Encodable {
            var statusCode: Int
            var error, code, message: String
            var path = "/"
            var timestamp = Date().formatted(.iso8601)
            var source = "DAYTONA_PROXY"
        }
        let (number, reason, code) = refusal.status
        let body = Body(statusCode: number, error: reason, code: code, message: refusal.message)
        let json = (try? JSONEncoder().encode(body)).map { Array($0) } ?? []
        var answer = ByteBuffer(
            string:
                "HTTP/1.1 \(number) \(reason)\r\nContent-Type: application/json\r\nContent-Length: \(json.count)\r\n"
                + "Connection: close\r\n\r\n"
        )
        answer.writeBytes(json)
        return answer
    }
}
