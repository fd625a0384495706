import FoundationEssentials
import HTTPTypes
import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTPTypes

/// Ends a connection that keeps the server waiting. Sits where bytes come in; a `RequestMarker` behind the decoder tells it
/// what they were.
///
///     accepted ──▶ head ──whole──▶ answer ──written──▶ idle ──a byte──▶ head …        head: `headDeadline`, then 408
///                                                 └─▶ rest of a body that was not read: `bodyDeadline`, then closed
///
/// Bytes of the next request that came while the last one was answered start no timer; `idleLimit` ends those.
final class Patience: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum Phase { case idle, head, answer, rest }

    private let limits: APILimits
    private var phase = Phase.idle
    private var alarm: Scheduled<Void>?

    init(limits: APILimits) { self.limits = limits }

    func handlerAdded(context: ChannelHandlerContext) {
        if context.channel.isActive { awaitHead(context) }
    }

    func channelActive(context: ChannelHandlerContext) {
        awaitHead(context)
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if phase == .idle { awaitHead(context) }
        context.fireChannelRead(data)
    }

    func channelInactive(context: ChannelHandlerContext) {
        alarm?.cancel()
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) { alarm?.cancel() }

    private func awaitHead(_ context: ChannelHandlerContext) {
        guard phase == .idle else { return }
        enter(.head)
        let (deadline, bound) = (limits.headDeadline, NIOLoopBound((self, context), eventLoop: context.eventLoop))
        alarm = context.eventLoop.scheduleTask(in: TimeAmount(deadline)) { bound.value.0.refuse(bound.value.1) }
    }

    private func refuse(_ context: ChannelHandlerContext) {
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(Self.refusal(limits.headDeadline))).whenComplete { _ in
            channel.close(promise: nil)
        }
    }

    private func enter(_ next: Phase) {
        alarm?.cancel()
        alarm = nil
        phase = next
    }

    private static func refusal(_ deadline: Duration) -> ByteBuffer {
        let error = APIError(.requestTimeout, "the request's head did not arrive within \(deadline)")
        let body = (try? JSONEncoder.ofAnswers.encode(ErrorBody(error, path: "", at: .now))) ?? Data()
        var answer = ByteBuffer(
            string: """
                HTTP/1.1 408 Request Timeout\r
                Content-Type: application/json; charset=utf-8\r
                Content-Length: \(body.count)\r
                Connection: close\r
                \r

                """
        )
        answer.writeData(body)
        return answer
    }

    // MARK: - Told by the marker

    fileprivate func headArrived() { enter(.answer) }

    fileprivate func answered(_ context: ChannelHandlerContext, isWholeRead: Bool) {
        guard !isWholeRead else { return enter(.idle) }
        enter(.rest)
        let channel = context.channel
        alarm = context.eventLoop.scheduleTask(in: TimeAmount(limits.bodyDeadline)) { channel.close(promise: nil) }
    }

    fileprivate func restArrived() {
        if phase == .rest { enter(.idle) }
    }
}

/// Tells the `Patience` in front of the decoder where requests and answers begin and end.
final class RequestMarker: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    private var patience: Patience?
    /// Requests whose head came and whose answer is not written; clients may send the next before they have the last.
    private var unanswered = 0
    private var isInBody = false

    func handlerAdded(context: ChannelHandlerContext) {
        patience = try? context.pipeline.syncOperations.handler(type: Patience.self)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head:
            unanswered += 1
            isInBody = true
            patience?.headArrived()
        case .body: break
        case .end:
            isInBody = false
            patience?.restArrived()
        }
        context.fireChannelRead(data)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        if case .end = unwrapOutboundIn(data) {
            unanswered -= 1
            if unanswered == 0 { patience?.answered(context, isWholeRead: !isInBody) }
        }
        context.write(data, promise: promise)
    }
}
