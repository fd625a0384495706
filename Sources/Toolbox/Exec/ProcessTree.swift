import CLinux
import Glibc
package import NIOCore
import NIOPosix

/// How a program ended.
package enum ProgramExit: Sendable, Equatable {
    case exited(CInt)
    case signalled(CInt)
    /// Its keeper went away without saying: killed from outside.
    case unknown

    /// As a shell says it: 128 plus the signal.
    package var code: Int {
        switch self {
        case .exited(let code): Int(code)
        case .signalled(let number): 128 + Int(number)
        case .unknown: -1
        }
    }

    init(waitStatus: CInt) {
        let number = waitStatus & 0x7F
        self = number == 0 ? .exited((waitStatus >> 8) & 0xFF) : .signalled(number)
    }
}

/// A running program with all its descendants, whatever sessions they moved to (see `martlet_spawn`).
package final class ProcessTree: Sendable {
    /// After a kill, output that is still held open by a process that cannot be killed is given up after this time.
    package static let killGrace = TimeAmount.seconds(3)

    /// Connected to the keeper: commands out, reports in.
    private let channel: any Channel
    private let streams: ProgramChannels
    private let reports: KeeperReports
    /// The programs' output; with `merged` streams and on a terminal the errors too. Nothing if it went to a descriptor of
    /// the caller's. A terminal ends with an `IOError` (EIO) where a pipe just ends.
    package var output: NIOAsyncChannel<ByteBuffer, Never> { streams.output }
    /// The programs' standard error, if the streams are `apart`.
    package var errors: NIOAsyncChannel<ByteBuffer, Never>? { streams.errors }
    /// The programs' standard input, unless the streams are `merged`.
    package var input: ProgramInput? { streams.input }
    /// Whether its streams are a terminal.
    package var hasTerminal: Bool { streams.input?.isTerminal ?? false }
    /// Fulfilled with the leader's process id. Fails with a `LaunchFailure` if it could not be started.
    package let started: EventLoopFuture<Int32>
    /// Fulfilled when the leader ended. Never fails.
    package let exit: EventLoopFuture<ProgramExit>
    /// Fulfilled when no descendant is left and the keeper is reaped. Never fails.
    package let gone: EventLoopFuture<Void>

    init(channel: any Channel, streams: ProgramChannels, reports: KeeperReports) {
        self.channel = channel
        self.streams = streams
        self.reports = reports
        started = reports.started.futureResult
        exit = reports.exit.futureResult
        gone = reports.gone.futureResult
    }

    /// Why it could not be started; nil if it was. Waits until that is known.
    package var startFailure: LaunchFailure? {
        get async {
            do {
                _ = try await started.get()
                return nil
            } catch {
                return error as? LaunchFailure ?? LaunchFailure(reason: "\(error)")
            }
        }
    }

    /// Sends a signal to the leader's process group, or to what is left of the tree when the leader ended.
    package func signal(_ number: CInt) {
        _ = deliver(number)
    }

    /// Sends a signal as `signal` does. The answer is fulfilled when the kernel has it, so that it cannot hit what the program
    /// is told to do later; or when the keeper is gone. Never fails.
    @discardableResult
    package func deliver(_ number: CInt) -> EventLoopFuture<Void> {
        let delivered = channel.eventLoop.makePromise(of: Void.self)
        channel.eventLoop.execute { [self] in
            reports.expectDelivery(delivered)
            command(UInt8(truncatingIfNeeded: number))
        }
        return delivered.futureResult
    }

    /// Kills every descendant, and gives up on output that stays open for longer than `killGrace`.
    package func kill() {
        command(UInt8(MARTLET_KEEPER_KILL))
        channel.eventLoop.scheduleTask(in: Self.killGrace) { [streams, channel] in
            streams.close()
            channel.close(promise: nil)
        }
    }

    private func command(_ byte: UInt8) {
        channel.writeAndFlush(ByteBuffer(integer: byte), promise: nil)
    }
}

/// Reads the keeper's reports and keeps the promises that `ProcessTree` shows.
final class KeeperReports: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    let started: EventLoopPromise<Int32>
    let exit: EventLoopPromise<ProgramExit>
    let gone: EventLoopPromise<Void>
    private let keeper: Int32
    /// For words about a failure.
    private let executable: String
    private let buffered: NIOLoopBoundBox<ByteBuffer>
    /// Signals that the keeper was asked to send, oldest first; nil when it is gone.
    private let deliveries: NIOLoopBoundBox<[EventLoopPromise<Void>]?>

    init(keeper: Int32, of executable: String, on eventLoop: any EventLoop) {
        self.keeper = keeper
        self.executable = executable
        started = eventLoop.makePromise()
        exit = eventLoop.makePromise()
        gone = eventLoop.makePromise()
        buffered = .makeBoxSendingValue(ByteBuffer(), eventLoop: eventLoop)
        deliveries = .makeBoxSendingValue([], eventLoop: eventLoop)
    }

    /// `promise` is fulfilled when the next signal after those of earlier calls was sent.
    func expectDelivery(_ promise: EventLoopPromise<Void>) {
        if deliveries.value == nil { promise.succeed() } else { deliveries.value?.append(promise) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        buffered.value.writeImmutableBuffer(unwrapInboundIn(data))
        while let kind = buffered.value.getInteger(at: buffered.value.readerIndex, endianness: .host, as: Int32.self),
            let value = buffered.value.getInteger(at: buffered.value.readerIndex + 4, endianness: .host, as: Int32.self)
        {
            buffered.value.moveReaderIndex(forwardBy: 8)
            accept(kind, value)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        started.fail(LaunchFailure(reason: "cannot start \(executable): its keeper was killed"))
        exit.succeed(.unknown)
        for promise in deliveries.value ?? [] { promise.succeed() }
        deliveries.value = nil
        reap(context.eventLoop)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private func accept(_ kind: Int32, _ value: Int32) {
        switch kind {
        case Int32(MARTLET_REPORT_STARTED): started.succeed(value)
        case Int32(MARTLET_REPORT_FAILED):
            started.fail(LaunchFailure(reason: "cannot start \(executable): \(describeErrno(value))"))
        case Int32(MARTLET_REPORT_EXITED): exit.succeed(ProgramExit(waitStatus: value))
        case Int32(MARTLET_REPORT_SIGNALLED):
            guard deliveries.value?.isEmpty == false else { break }
            deliveries.value?.removeFirst().succeed()
        default: break
        }
    }

    /// Nothing will be read of a keeper whose pipes are closed: it kills its tree, and is reaped.
    func abandon(_ failure: LaunchFailure, on eventLoop: any EventLoop) {
        started.fail(failure)
        exit.succeed(.unknown)
        eventLoop.execute { self.reap(eventLoop) }
    }

    /// The keeper closes its descriptors a moment before it can be reaped. One that was given up, because it serves a
    /// process that cannot be killed, is asked for more and more seldom.
    private func reap(_ eventLoop: any EventLoop, pause: TimeAmount = .milliseconds(1)) {
        var status: CInt = 0
        guard waitpid(keeper, &status, WNOHANG) == 0 else { return gone.succeed(()) }
        eventLoop.scheduleTask(in: pause) { [self] in
            reap(eventLoop, pause: min(.seconds(10), pause + pause))
        }
    }
}
