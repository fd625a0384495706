import CLibSSH
import Glibc

/// Something at the end of a channel. It lives on its connection's thread.
protocol SSHChannel: AnyObject {
    var hooks: ChannelHooks { get }
    /// Adds what to wait for.
    func addInterests(to list: inout [pollfd])
    /// When it must have its turn at the latest, whatever happens.
    var deadline: ContinuousClock.Instant? { get }
    /// Does what can be done without waiting.
    func serve() -> ChannelTurn
    /// The channel or the whole connection is closed: ends what is behind it.
    func abandon()
}

/// What came of a turn.
enum ChannelTurn {
    /// It waits for its interests.
    case waiting
    /// There is more to do: the next turn shall come soon.
    case busy
    /// Both sides are done, and the channel can be closed.
    case finished
}

/// A forwarded connection: bytes and their ends in both directions.
final class SocketChannel: SSHChannel {
    let hooks: ChannelHooks
    private let raw: ssh_channel
    private let session: SSHSession
    private var inbound: InboundStream
    private var outbound: OutboundStream
    private var saidEnd = false

    /// - Parameter socket: connected, never blocks.
    init(_ raw: ssh_channel, _ session: SSHSession, hooks: ChannelHooks? = nil, socket: OpenFile) {
        self.raw = raw
        self.hooks = hooks ?? ChannelHooks(raw)
        self.session = session
        inbound = InboundStream(socket, isSocket: true)
        outbound = OutboundStream(socket)
    }

    var deadline: ContinuousClock.Instant? { nil }

    func addInterests(to list: inout [pollfd]) {
        if let interest = inbound.interest { list.append(interest) }
        if let interest = outbound.interest(raw, session) { list.append(interest) }
    }

    func serve() -> ChannelTurn {
        let moreIn = inbound.move(from: raw, session)
        let moreOut = outbound.move(to: raw, session)
        if outbound.isFinished && !saidEnd {
            ssh_channel_send_eof(raw)
            saidEnd = true
        }
        if inbound.isFinished && (outbound.isFinished || hooks.isClosed) { return .finished }
        return moreIn || moreOut ? .busy : .waiting
    }

    func abandon() {}
}
