import Domain
import Glibc
import NIOCore
import NIOPosix
import Proxy
import Store
import Tunnels

/// Opens ways into sandboxes through their runners' ingress, as the proxy goes: TLS with the runner's certificate pinned,
/// then CONNECT. libssh wants a socket, so each tunnel ends in one half of a socket pair.
struct RunnerTunnels: Sendable {
    let group: any EventLoopGroup
    let connector: IngressConnector
    let limits: GatewayLimits

    init(group: any EventLoopGroup, limits: GatewayLimits) throws {
        self.group = group
        self.limits = limits
        connector = try IngressConnector()
    }

    /// A socket whose other end is 127.0.0.1:`port` in the sandbox.
    func open(_ destination: Destination, port: Int) async -> Result<OwnedSocket, TunnelRefusal> {
        guard let ingress = destination.ingress else {
            return .failure(TunnelRefusal(message: "the address of the sandbox's runner is wrong; tell the operator"))
        }
        guard let (ours, theirs) = socketPair() else {
            return .failure(TunnelRefusal(message: "the gateway has no descriptors left; try again in a moment"))
        }
        do {
            try await connect(theirs, to: destination, ingress, port: port).get()
            return .success(ours)
        } catch {
            let refusal = error as? TunnelRefusal
            return .failure(refusal ?? TunnelRefusal(message: "the sandbox cannot be reached; try again in a moment"))
        }
    }

    private func connect(
        _ socket: OwnedSocket,
        to destination: Destination,
        _ ingress: (host: String, port: Int),
        port: Int
    ) -> EventLoopFuture<Void> {
        let (loop, connector, deadline) = (group.next(), connector, TimeAmount(limits.tunnelDeadline))
        let opened = loop.makePromise(of: Void.self)
        loop.execute {
            let opening = TunnelOpening(destination, port: port, for: socket, opened: opened)
            let patience = loop.assumeIsolated().scheduleTask(in: deadline) {
                opening.fail("the sandbox's runner did not answer in time; try again")
            }
            opened.futureResult.whenComplete { _ in patience.cancel() }
            connector.connect(
                to: ingress,
                fingerprint: destination.route.tlsFingerprint,
                within: deadline,
                on: loop,
                handler: opening
            )
            .assumeIsolated()
            .whenFailure { _ in opening.fail("the sandbox's runner cannot be reached; try again in a minute") }
        }
        return opened.futureResult
    }
}

/// Two sockets, each the other's end, that never block; nil if there are no descriptors left.
func socketPair() -> (OwnedSocket, OwnedSocket)? {
    var pair: [CInt] = [-1, -1]
    let kind = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &pair) == 0 else { return nil }
    return (OwnedSocket(pair[0]), OwnedSocket(pair[1]))
}

/// Asks a runner for a tunnel, and becomes it.
///
///     asking ──200──▶ joining ──▶ (replaced by TunnelEnd)
///        └─────any failure────▶ failed
private final class TunnelOpening: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum Phase { case asking, joining, failed }

    /// Size of the answer to CONNECT, a refusal's body included.
    private static let answerLimit = 8 << 10

    private let destination: Destination
    private let port: Int
    private let socket: OwnedSocket
    private let opened: EventLoopPromise<Void>
    private var phase = Phase.asking
    private var received = ByteBuffer()
    private var context: ChannelHandlerContext?
    private var readIsPending = false

    init(_ destination: Destination, port: Int, for socket: OwnedSocket, opened: EventLoopPromise<Void>) {
        self.destination = destination
        self.port = port
        self.socket = socket
        self.opened = opened
    }

    func fail(_ message: String) {
        guard phase != .failed else { return }
        phase = .failed
        opened.fail(TunnelRefusal(message: message))
        context?.closeAbruptly()
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if phase == .failed { context.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    /// TLS holds this back until its handshake, and with it the pin, is good.
    func channelActive(context: ChannelHandlerContext) {
        let head = ByteBuffer(string: destination.connectHead(port: port))
        context.writeAndFlush(wrapOutboundOut(head), promise: nil)
        context.fireChannelActive()
    }

    func read(context: ChannelHandlerContext) {
        if phase == .joining { readIsPending = true } else { context.read() }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        received.writeBuffer(&bytes)
        guard phase == .asking else { return }
        guard let end = received.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8))?.upperBound else {
            if received.readableBytes > Self.answerLimit { fail("the sandbox's runner gave a wrong answer") }
            return
        }
        if received.readableBytesView.starts(with: "HTTP/1.1 200 ".utf8) {
            received.moveReaderIndex(to: end)
            join(context)
        } else if received.readableBytes > Self.answerLimit {
            refuse()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event, phase == .asking { refuse() }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        refuse()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        fail("the connection to the sandbox's runner failed; try again in a moment")
    }

    /// Passes on why, as the runner says it.
    private func refuse() {
        let end = received.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8))?.upperBound
        fail(
            end.flatMap { IngressConnector.reason(in: received.readableBytesView[$0...]) }
                ?? "the sandbox's runner refused the connection; try again in a moment"
        )
    }

    private func join(_ context: ChannelHandlerContext) {
        phase = .joining
        let inner = TunnelEnd()
        let bound = NIOLoopBound(inner, eventLoop: context.eventLoop)
        ClientBootstrap(group: context.eventLoop)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(bound.value)
                }
            }
            .withConnectedSocket(socket.take())
            .assumeIsolated()
            .whenComplete { result in
                switch result {
                case .success(let channel): self.become(inner, channel)
                case .failure: self.fail("the gateway could not open a tunnel; try again in a moment")
                }
            }
    }

    private func become(_ inner: TunnelEnd, _ channel: any Channel) {
        guard let context, phase == .joining else { return channel.close(mode: .all, promise: nil) }
        let outer = TunnelEnd()
        do {
            try context.pipeline.syncOperations.addHandler(outer, position: .after(self))
        } catch {
            channel.close(mode: .all, promise: nil)
            return fail("the gateway could not open a tunnel; try again in a moment")
        }
        TunnelEnd.join(outer, inner)
        opened.succeed()
        if received.readableBytes > 0 {
            context.fireChannelRead(wrapInboundOut(received))
            context.fireChannelReadComplete()
        }
        if readIsPending { context.read() }
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
    }
}
