import Glibc
import NIOCore
import NIOPosix

/// Reads a pipe as fast as its sink has room. It can tell when all that was written until a moment is read, although
/// somebody may hold the pipe open for ever.
final class PipeReader: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    /// Takes a piece. False if it has no room for the next one; then it calls the second parameter once when it has.
    typealias Sink = @Sendable (ByteBuffer, @escaping @Sendable () -> Void) -> Bool

    private struct State {
        var received = 0
        /// All is read when so much is received.
        var target = Int.max
        var isHeld = false
    }

    /// Fulfilled at the end of file, or when it was given up.
    var closed: EventLoopFuture<Void> { channel.closeFuture }
    private let channel: any Channel
    private let descriptor: CInt
    private let sink: Sink
    private let state: NIOLoopBoundBox<State>
    private let drained: EventLoopPromise<Void>

    /// Starts to read.
    /// - Parameter end: the reading end of a pipe.
    static func start(_ end: TakeableDescriptor, on loop: any EventLoop, into sink: @escaping Sink)
        -> EventLoopFuture<PipeReader>
    {
        let descriptor = end.descriptor
        return NIOPipeBootstrap(group: loop).channelOption(.autoRead, value: false)
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(PipeReader(channel, descriptor, sink))
                }
            }
            .takingOwnershipOfDescriptor(input: end.take())
            .flatMapThrowing { try $0.pipeline.syncOperations.handler(type: PipeReader.self) }
    }

    private init(_ channel: any Channel, _ descriptor: CInt, _ sink: @escaping Sink) {
        self.channel = channel
        self.descriptor = descriptor
        self.sink = sink
        state = .makeBoxSendingValue(State(), eventLoop: channel.eventLoop)
        drained = channel.eventLoop.makePromise()
        channel.closeFuture.cascade(to: drained)
    }

    /// Fulfilled when all that is in the pipe now has gone to the sink, or the pipe is closed. Only the first call looks.
    func drain() -> EventLoopFuture<Void> {
        channel.eventLoop.flatSubmit { [self] in
            var waiting: CInt = 0
            // The number is ours as long as the channel is active, which only changes on this loop.
            guard channel.isActive, ioctl(descriptor, UInt(FIONREAD), &waiting) == 0, waiting > 0 else {
                drained.succeed()
                return drained.futureResult
            }
            state.value.target = min(state.value.target, state.value.received + Int(waiting))
            return drained.futureResult
        }
    }

    /// Reads no more; who writes gets EPIPE.
    func close() {
        channel.close(promise: nil)
    }

    func channelActive(context: ChannelHandlerContext) {
        context.read()
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let piece = unwrapInboundIn(data)
        state.value.received += piece.readableBytes
        let hasRoom = sink(piece) { [self] in channel.eventLoop.execute { [self] in resume() } }
        if !hasRoom { state.value.isHeld = true }
        if state.value.received >= state.value.target { drained.succeed() }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if !state.value.isHeld { context.read() }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private func resume() {
        state.value.isHeld = false
        channel.read()
    }
}
