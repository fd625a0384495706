import HTTPTypes
import NIOCore
import NIOHTTPTypes
import NIOWebSocket

/// Sits behind the HTTP codec of each connection. When the 101 of an accepted handshake passes, it puts WebSocket in the
/// place of HTTP. What is behind it in the pipeline stays, hears nothing more, and sees a request that is being answered:
/// so the HTTP server's idle timeout and its waiting for answers when it stops work as for any long answer.
///
/// A request that asks for an upgrade and gets an ordinary answer ends the connection, since NIO's decoder parses nothing
/// after it.
final class UpgradePoint: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    /// The handlers of HTTP that give way.
    private let http: [any RemovableChannelHandler]
    private var requestsInProgress = 0
    private var lastRequestAsksForUpgrade = false
    private var armed: (connection: WebSocketConnection, limits: WebSocketLimits)?
    private(set) var hasSwitched = false
    private var isStopping = false

    init(replacing http: [any RemovableChannelHandler]) {
        self.http = http
    }

    /// The next 101 that is written makes the connection this one.
    func arm(_ connection: WebSocketConnection, _ limits: WebSocketLimits) {
        armed = (connection, limits)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if case .head(let head) = unwrapInboundIn(data) {
            requestsInProgress += 1
            let connection = head.headerFields[.connection]?.lowercased() ?? ""
            lastRequestAsksForUpgrade = head.headerFields[.upgrade] != nil && connection.contains("upgrade")
        }
        context.fireChannelRead(data)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        case .head(let head) where head.status == .switchingProtocols:
            context.writeAndFlush(data, promise: promise)
            switchProtocols(context)
        case .head(var head) where endsConnection && head.status.kind != .informational:
            head.headerFields[.connection] = "close"
            context.write(wrapOutboundOut(.head(head)), promise: promise)
        case .end:
            let isLast = endsConnection
            requestsInProgress -= 1
            context.write(data, promise: promise)
            guard isLast else { return }
            context.flush()
            context.close(mode: .output, promise: nil)
        case .head, .body: context.write(data, promise: promise)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent { isStopping = true }
        context.fireUserInboundEventTriggered(event)
    }

    private var endsConnection: Bool { lastRequestAsksForUpgrade && requestsInProgress == 1 && !hasSwitched }

    private func switchProtocols(_ context: ChannelHandlerContext) {
        guard let (connection, limits) = armed, context.channel.isActive else { return }
        armed = nil
        hasSwitched = true
        let pipeline = context.pipeline.syncOperations
        do {
            let decoder = ByteToMessageHandler(WebSocketFrameDecoder(maxFrameSize: limits.messageBytes))
            try pipeline.addHandlers([decoder, WebSocketFrameEncoder(), connection], position: .before(self))
            for handler in http { pipeline.removeHandler(handler, promise: nil) }
        } catch {
            context.close(promise: nil)
        }
        if isStopping { connection.close(WebSocketClose(WebSocketClose.goingAway, "the server is stopping")) }
    }
}

@available(*, unavailable)
extension UpgradePoint: Sendable {}
