import CLibSSH
import Glibc
import SSHServing

/// A connection that the client wants made in the sandbox: its name is looked up, then its addresses are tried in turn.
final class ConnectionAttempt {
    let request: SSHMessage
    let deadline: ContinuousClock.Instant
    private var addresses: ArraySlice<PeerAddress> = []
    private var socket: OpenFile?
    /// The number under which the look-up answers, until it has.
    private(set) var lookup: Int?

    /// - Parameter addresses: nil while they are looked up.
    init(_ request: SSHMessage, lookup: Int?, addresses: [PeerAddress]) {
        self.request = request
        self.lookup = lookup
        self.addresses = addresses[...]
        deadline = .now + SSHLimit.connecting
        if lookup == nil { next() }
    }

    func resolved(_ found: [PeerAddress]) {
        lookup = nil
        addresses = found[...]
        next()
    }

    var interest: pollfd? {
        guard let socket else { return nil }
        return pollfd(fd: socket.descriptor, events: Int16(POLLOUT), revents: 0)
    }

    enum Outcome {
        case pending
        case connected(OpenFile)
        case failed
    }

    /// How it stands.
    func advance() -> Outcome {
        guard deadline > .now else { return .failed }
        guard lookup == nil else { return .pending }
        while let socket {
            var state = pollfd(fd: socket.descriptor, events: Int16(POLLOUT), revents: 0)
            guard poll(&state, 1, 0) > 0 else { return .pending }
            var failure: CInt = 0
            var size = socklen_t(MemoryLayout<CInt>.size)
            getsockopt(socket.descriptor, SOL_SOCKET, SO_ERROR, &failure, &size)
            if failure == 0 { return .connected(socket) }
            next()
        }
        return .failed
    }

    /// Tries the addresses that are left until one does not fail at once.
    private func next() {
        socket = nil
        while socket == nil, let address = addresses.popFirst() { socket = address.connect() }
    }
}

/// A socket in the sandbox whose connections are handed to the client.
final class ForwardListener {
    enum Kind {
        /// A port, as the client named it.
        case port(address: String, number: Int)
        /// The client's keys.
        case agent
    }

    let kind: Kind
    private let socket: OpenFile

    /// - Parameter socket: listens, never blocks.
    init(_ kind: Kind, _ socket: OpenFile) {
        (self.kind, self.socket) = (kind, socket)
    }

    var interest: pollfd { pollfd(fd: socket.descriptor, events: Int16(POLLIN), revents: 0) }

    func accept() -> OpenFile? { acceptConnection(socket.descriptor) }
}

/// A channel that was offered to the client for a connection to a listener.
final class ChannelOffer {
    let raw: ssh_channel
    let hooks: ChannelHooks
    let socket: OpenFile
    private let kind: ForwardListener.Kind

    init?(_ session: SSHSession, _ kind: ForwardListener.Kind, _ socket: OpenFile) {
        guard let channel = ssh_channel_new(session.raw) else { return nil }
        raw = channel
        hooks = ChannelHooks(channel)
        (self.kind, self.socket) = (kind, socket)
    }

    /// SSH_OK once the client took it, SSH_AGAIN until then, SSH_ERROR if it refused.
    func advance() -> CInt {
        switch kind {
        case .agent: return ssh_channel_open_auth_agent(raw)
        case .port(let address, let number):
            let peer = PeerAddress.of(socket.descriptor, otherEnd: true)
            return ssh_channel_open_reverse_forward(raw, address, CInt(number), peer.host, CInt(peer.port))
        }
    }
}

/// The socket that programs find the client's keys behind, in a directory that only this user can enter.
final class AgentSocket {
    let path: String
    private let directory: String
    let listener: ForwardListener

    /// - Returns: nil if it cannot be made.
    init?(in parent: String) {
        var template = Array("\(parent)/martlet-ssh-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { return nil }
        directory = text(template)
        path = "\(directory)/agent"
        guard let socket = PeerAddress(path: path)?.listen() else {
            rmdir(directory)
            return nil
        }
        chmod(path, 0o600)
        listener = ForwardListener(.agent, socket)
    }

    deinit {
        unlink(path)
        rmdir(directory)
    }
}
