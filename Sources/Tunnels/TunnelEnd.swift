package import NIOCore

import NIOSSL

/// One end of a tunnel: what is read here is written to the partner, on the same event loop.
///
/// - Back-pressure: nothing is read while the partner cannot write.
/// - Half-close: end of input here becomes end of output there, after all bytes.
/// - Errors: a reset or a TLS connection cut without its closing alert resets the other side. A cut stream is never
///   made to look complete.
package final class TunnelEnd: ChannelDuplexHandler, RemovableChannelHandler {
    package typealias InboundIn = ByteBuffer
    package typealias OutboundIn = ByteBuffer
    package typealias OutboundOut = ByteBuffer

    private var context: ChannelHandlerContext?
    private var partner: TunnelEnd?
    private var readIsPending = false
    package private(set) var inputIsClosed = false
    private var outputIsClosed = false
    package private(set) var lastMoved: NIODeadline = .now()

    package init() {}

    /// Ties two ends together. The knot is undone when either channel becomes inactive.
    package static func join(_ first: TunnelEnd, _ second: TunnelEnd) {
        first.partner = second
        second.partner = first
    }

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        partner = nil
    }

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        lastMoved = .now()
        partner?.context?.write(data, promise: nil)
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        partner?.context?.flush()
    }

    package func read(context: ChannelHandlerContext) {
        if let other = partner?.context, !other.channel.isWritable {
            readIsPending = true
        } else {
            context.read()
        }
    }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { partner?.resumeReading() }
        context.fireChannelWritabilityChanged()
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event, !inputIsClosed {
            inputIsClosed = true
            partner?.endOutput()
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        let other = partner
        abort()
        other?.abort()
    }

    package func channelInactive(context: ChannelHandlerContext) {
        let other = partner
        partner = nil
        other?.partner = nil
        // Where output had ended before, the end of input comes as this alone; a reset comes as an error first.
        if inputIsClosed || outputIsClosed { other?.finish() } else { other?.abort() }
        context.fireChannelInactive()
    }

    private func resumeReading() {
        guard readIsPending else { return }
        readIsPending = false
        context?.read()
    }

    private func endOutput() {
        outputIsClosed = true
        context?.closeAfterWrites(mode: .output)
    }

    /// The partner is gone after a clean end: let what is written go out, then close.
    private func finish() {
        context?.closeAfterWrites(mode: .all)
    }

    /// Closes both ends at once, without ceremony: each peer sees a reset.
    package func abortTunnel() {
        let other = partner
        abort()
        other?.abort()
    }

    private func abort() {
        guard let context else { return }
        partner = nil
        context.closeAbruptly()
    }
}
