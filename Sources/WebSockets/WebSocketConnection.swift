import NIOCore
import NIOWebSocket

/// The end of an upgraded connection's pipeline that speaks WebSocket. Lives on its event loop.
///
///     open ──peer's close, violation, our close, shutdown──▶ closing ──peer's close or end, `closeWait`──▶ gone
///       └──────────────── connection lost, `silence` ───────────────────────────────────────────────────────▲
///
/// Open: messages both ways. Closing: our close frame is the last thing sent; what still comes is dropped. Gone: nothing.
final class WebSocketConnection: ChannelDuplexHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundIn = Never
    typealias OutboundOut = WebSocketFrame

    private enum Phase {
        case open
        case closing
        case gone
    }

    /// A message of ours, some of whose frames may be sent already.
    private struct Outgoing {
        var opcode: WebSocketOpcode
        var rest: ByteBuffer
        var promise: EventLoopPromise<Void>
    }

    private let limits: WebSocketLimits
    private let inbox: WebSocketInbox
    private var assembler: MessageAssembler
    private var phase = Phase.open
    /// Nil before the handler is added and after it is removed.
    private var context: ChannelHandlerContext?
    private var queue = CircularBuffer<Outgoing>()
    /// Only the last ping must be answered, so a peer that does not read its pongs costs one buffer.
    private var pendingPong: ByteBuffer?
    private var isSending = false
    private var readIsHeld = false
    private var lastHeard = NIODeadline.now()
    private var timer: Scheduled<Void>?
    /// Why it is not open any more, for `send`.
    private var end = WebSocketClose(WebSocketClose.abnormal, "the connection is lost")

    init(limits: WebSocketLimits, inbox: WebSocketInbox) {
        self.limits = limits
        self.inbox = inbox
        assembler = MessageAssembler(limitBytes: limits.messageBytes)
    }

    // MARK: What the program asks for

    /// Queues a message; `promise` is fulfilled when its last frame was handed to the kernel.
    func send(_ message: WebSocketMessage, _ promise: EventLoopPromise<Void>) {
        guard phase == .open, context != nil else { return promise.fail(end) }
        guard queue.count < limits.waitingSends else {
            return promise.fail(
                WebSocketSendError(message: "\(limits.waitingSends) messages wait to be sent, the limit")
            )
        }
        switch message {
        case .text(let text): queue.append(Outgoing(opcode: .text, rest: ByteBuffer(string: text), promise: promise))
        case .binary(let bytes): queue.append(Outgoing(opcode: .binary, rest: bytes, promise: promise))
        }
        sendMore()
    }

    /// Sends a close frame, unless one was sent already, and waits at most `closeWait` for the peer's.
    func close(_ close: WebSocketClose) {
        startClosing(close, endsOutput: false)
    }

    /// The program took messages: there is room for more.
    func resumeReading() {
        guard readIsHeld else { return }
        readIsHeld = false
        // It was us who did not read: the peer's silence counts from now.
        lastHeard = .now()
        context?.read()
    }

    // MARK: Inbound

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        lastHeard = .now()
        scheduleBeat(context)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        lose()
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = unwrapInboundIn(data)
        lastHeard = .now()
        switch phase {
        case .open:
            do {
                try accept(frame)
            } catch {
                startClosing(error, endsOutput: true)
            }
        case .closing where frame.opcode == .connectionClose: context.close(promise: nil)
        case .closing, .gone: break
        }
    }

    func read(context: ChannelHandlerContext) {
        if !readIsHeld { context.read() }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        sendMore()
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case is ChannelShouldQuiesceEvent:
            return startClosing(WebSocketClose(WebSocketClose.goingAway, "the server is stopping"), endsOutput: false)
        case ChannelEvent.inputClosed as ChannelEvent:
            lose()
            context.close(promise: nil)
        default: break
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        lose()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case NIOWebSocketError.invalidFrameLength:
            let reason = "a frame is larger than \(limits.messageBytes) bytes, the limit of a message"
            startClosing(WebSocketClose(WebSocketClose.tooLarge, reason), endsOutput: true)
        case is NIOWebSocketError:
            let reason = "a control frame is fragmented or longer than 125 bytes"
            startClosing(WebSocketClose(WebSocketClose.protocolError, reason), endsOutput: true)
        case is ByteToMessageDecoderError: break  // more bytes after one of the errors above
        default:
            lose()
            context.close(promise: nil)
        }
    }

    private func accept(_ frame: WebSocketFrame) throws(WebSocketClose) {
        try assembler.check(frame)
        switch frame.opcode {
        case .ping:
            pendingPong = frame.unmaskedData
            sendMore()
        case .pong: break
        case .connectionClose:
            let close = try WebSocketClose(content: frame.unmaskedData)
            startClosing(WebSocketClose(close.code), endsOutput: true)
            end = close
        default:
            guard let message = try assembler.accept(frame) else { return }
            if !inbox.add(message) { readIsHeld = true }
        }
    }

    // MARK: Outbound

    /// Writes as long as the kernel takes it: first the pong, then messages.
    private func sendMore() {
        guard let context, phase == .open, !isSending else { return }
        isSending = true
        defer { isSending = false }
        var wrote = true
        while wrote {
            wrote = false
            while context.channel.isWritable, sendOne(context) { wrote = true }
            if wrote { context.flush() }
        }
    }

    private func sendOne(_ context: ChannelHandlerContext) -> Bool {
        if let content = pendingPong {
            pendingPong = nil
            write(context, .pong, content)
            return true
        }
        guard var message = queue.first else { return false }
        let length = min(limits.frameBytes, message.rest.readableBytes)
        let content = message.rest.readSlice(length: length) ?? ByteBuffer()
        let isLast = message.rest.readableBytes == 0
        let opcode = message.opcode
        message.opcode = .continuation
        if isLast { queue.removeFirst() } else { queue[queue.startIndex] = message }
        write(context, opcode, content, fin: isLast, promise: isLast ? message.promise : nil)
        return true
    }

    private func write(
        _ context: ChannelHandlerContext,
        _ opcode: WebSocketOpcode,
        _ content: ByteBuffer,
        fin: Bool = true,
        promise: EventLoopPromise<Void>? = nil
    ) {
        context.write(wrapOutboundOut(WebSocketFrame(fin: fin, opcode: opcode, data: content)), promise: promise)
    }

    // MARK: The end

    /// - Parameter endsOutput: whether nothing is to come from the peer that must be waited for, so that it may see our end
    ///   of file at once; we still read until its own, lest the kernel's reset overtakes the close frame.
    private func startClosing(_ close: WebSocketClose, endsOutput: Bool) {
        guard phase == .open, let context else { return }
        phase = .closing
        end = close
        stopMessages()
        timer?.cancel()
        timer = context.eventLoop.assumeIsolated().scheduleTask(in: limits.closeWait) { context.close(promise: nil) }
        let sent = context.eventLoop.makePromise(of: Void.self)
        write(context, .connectionClose, close.content, promise: sent)
        context.flush()
        sent.futureResult.assumeIsolated().whenSuccess { if endsOutput { context.close(mode: .output, promise: nil) } }
        readIsHeld = false
        context.read()
    }

    private func lose() {
        guard phase != .gone else { return }
        phase = .gone
        timer?.cancel()
        timer = nil
        stopMessages()
    }

    private func stopMessages() {
        inbox.finish()
        pendingPong = nil
        let waiting = queue
        queue.removeAll()
        for message in waiting { message.promise.fail(end) }
    }

    /// Asks whether the peer still lives, and gives it up if it does not.
    private func scheduleBeat(_ context: ChannelHandlerContext) {
        timer = context.eventLoop.assumeIsolated().scheduleTask(in: limits.pingInterval) { [self] in
            guard phase == .open else { return }
            if !readIsHeld, NIODeadline.now() - lastHeard >= limits.silence {
                end = WebSocketClose(WebSocketClose.abnormal, "the peer was silent for too long")
                lose()
                return context.close(promise: nil)
            }
            if context.channel.isWritable {
                write(context, .ping, ByteBuffer())
                context.flush()
            }
            scheduleBeat(context)
        }
    }
}

@available(*, unavailable)
extension WebSocketConnection: Sendable {}
