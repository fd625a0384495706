import CLibSSH
import Glibc
import Logging
import NIOCore
import SSHServing

/// One connection, from its first byte to its last, on a thread of its own: libssh, all channels, and what is behind them.
final class SSHConnection {
    private let session: SSHSession
    private let server: SSHServer
    private let context: SessionContext
    private let mailbox: ConnectionMailbox
    private let variables: [String: String]

    private var phase = Phase.keyExchange
    private var shallEnd = false
    private let loginDeadline = ContinuousClock.now + SSHLimit.login
    private var refusedKeys = 0

    private var channels: [ssh_channel: any SSHChannel] = [:]
    private var sessions: [Int: SessionChannel] = [:]
    private var attempts: [ConnectionAttempt] = []
    private var listeners: [ForwardListener] = []
    private var offers: [ChannelOffer] = []
    private var agent: AgentSocket?
    private var lastNumber = 0
    private var lookups = 0
    private var turn = 0

    private enum Phase {
        case keyExchange
        case authentication
        case open
    }

    /// - Parameter descriptor: a connected socket that never blocks; it is taken over.
    init?(_ descriptor: CInt, _ server: SSHServer, _ context: SessionContext, _ mailbox: ConnectionMailbox) {
        guard let hostKey = server.hostKey, let session = SSHSession(descriptor, hostKey: hostKey) else { return nil }
        (self.session, self.server, self.context, self.mailbox) = (session, server, context, mailbox)
        variables = Self.variables(PeerAddress.of(descriptor, otherEnd: true), PeerAddress.of(descriptor), context)
    }

    private static func variables(_ client: PeerAddress, _ own: PeerAddress, _ context: SessionContext) -> [String:
        String]
    {
        let user = Accounts.load().userName(getuid())
        return [
            "SSH_CLIENT": "\(client.host) \(client.port) \(own.port)",
            "SSH_CONNECTION": "\(client.host) \(client.port) \(own.host) \(own.port)",
            "USER": user, "LOGNAME": user, "HOME": context.home,
        ]
    }

    // MARK: - The loop

    /// Serves until either side ends it.
    func run() {
        defer { end() }
        guard session.exchangeKeys() != SSH_ERROR else { return }
        var isBusy = false
        while !shallEnd && session.isOpen {
            let writable = wait(isBusy || session.hasUnseen)
            let isOpen = session.exchange(writable: writable)
            if phase == .keyExchange { exchangeKeys() }
            takeNews()
            while !shallEnd, let message = session.nextMessage() { handle(message) }
            acceptForwarded()
            advanceAttempts()
            advanceOffers()
            isBusy = serveChannels()
            if !isOpen || (phase != .open && loginDeadline <= .now) { break }
        }
    }

    /// - Returns: whether the client takes bytes.
    private func wait(_ isBusy: Bool) -> Bool {
        var list = [
            pollfd(fd: session.descriptor, events: Int16(session.interest), revents: 0),
            pollfd(fd: mailbox.wake, events: Int16(POLLIN), revents: 0),
        ]
        for channel in channels.values { channel.addInterests(to: &list) }
        list.append(contentsOf: attempts.compactMap(\.interest))
        if hasRoom { list.append(contentsOf: listeners.map(\.interest)) }
        poll(&list, nfds_t(list.count), isBusy ? 0 : timeout)
        return list[0].revents & Int16(POLLOUT) != 0
    }

    /// Milliseconds until something must be done whatever happens, or -1.
    private var timeout: CInt {
        var deadlines = channels.values.compactMap(\.deadline) + attempts.map(\.deadline)
        if phase != .open { deadlines.append(loginDeadline) }
        guard let first = deadlines.min() else { return -1 }
        let (seconds, attoseconds) = (first - .now).components
        return CInt(clamping: max(0, seconds * 1000 + attoseconds / 1_000_000_000_000_000 + 1))
    }

    private func exchangeKeys() {
        switch session.exchangeKeys() {
        case SSH_OK: phase = .authentication
        case SSH_AGAIN: break
        default: shallEnd = true
        }
    }

    /// Each time another channel comes first, since the first may take all that the client has room for.
    private func serveChannels() -> Bool {
        var isBusy = false
        let list = Array(channels)
        turn = list.isEmpty ? 0 : (turn + 1) % list.count
        for (raw, channel) in list[turn...] + list[..<turn] {
            switch channel.serve() {
            case .waiting: break
            case .busy: isBusy = true
            case .finished: remove(raw, channel)
            }
        }
        return isBusy
    }

    private func remove(_ raw: ssh_channel, _ channel: any SSHChannel) {
        channels[raw] = nil
        if let session = channel as? SessionChannel { sessions[session.number] = nil }
        channel.hooks.free()
    }

    private func takeNews() {
        for news in mailbox.take() {
            switch news {
            case .launched(let number, let tree):
                if let session = sessions[number] { session.launched(tree) } else { tree.kill() }
            case .notLaunched(let number, let reason): sessions[number]?.notLaunched(reason)
            case .exited(let number, let exit): sessions[number]?.exited(exit)
            case .resolved(let number, let addresses):
                lookups -= 1
                attempts.first { $0.lookup == number }?.resolved(addresses)
            case .end: shallEnd = true
            }
        }
    }

    /// Everything that the connection has is closed and killed.
    private func end() {
        for case .launched(_, let tree) in mailbox.close() { tree.kill() }
        for (raw, channel) in channels {
            channel.abandon()
            remove(raw, channel)
        }
        for offer in offers { offer.hooks.free() }
        (attempts, listeners, offers, agent) = ([], [], [], nil)
        // Last, for it frees what channels are left.
        session.disconnect()
    }

    // MARK: - Messages

    private func handle(_ message: SSHMessage) {
        switch ssh_requests_e(UInt32(bitPattern: message.type)) {
        case SSH_REQUEST_AUTH: authenticate(message)
        case SSH_REQUEST_CHANNEL_OPEN where phase == .open: openChannel(message)
        case SSH_REQUEST_CHANNEL where phase == .open: request(message)
        case SSH_REQUEST_GLOBAL where phase == .open: globalRequest(message)
        default: message.refuse()
        }
    }

    private func authenticate(_ message: SSHMessage) {
        guard phase == .authentication, message.subtype == CInt(SSH_AUTH_METHOD_PUBLICKEY) else {
            return message.refuse()
        }
        guard let key = PublicKey(martlet_ssh_offered_key(message.raw)), server.isAuthorized(key) else {
            refusedKeys += 1
            shallEnd = refusedKeys >= SSHLimit.attempts
            return message.refuse()
        }
        switch ssh_publickey_state_e(martlet_ssh_signature_state(message.raw)) {
        case SSH_PUBLICKEY_STATE_NONE: ssh_message_auth_reply_pk_ok_simple(message.raw)
        case SSH_PUBLICKEY_STATE_VALID:
            phase = .open
            server.loggedIn(mailbox, with: key, as: text(ssh_message_auth_user(message.raw)))
            ssh_message_auth_reply_success(message.raw, 0)
        default:
            refusedKeys += 1
            shallEnd = refusedKeys >= SSHLimit.attempts
            message.refuse()
        }
    }

    private var hasRoom: Bool { channels.count + attempts.count + offers.count < SSHLimit.channels }

    private func nextNumber() -> Int {
        lastNumber += 1
        return lastNumber
    }

    private func openChannel(_ message: SSHMessage) {
        guard hasRoom else { return message.refuse() }
        switch ssh_channel_type_e(UInt32(bitPattern: message.subtype)) {
        case SSH_CHANNEL_SESSION: openSession(message)
        case SSH_CHANNEL_DIRECT_TCPIP: beginConnecting(message)
        default: message.refuse()
        }
    }

    private func openSession(_ message: SSHMessage) {
        guard let raw = ssh_message_channel_request_open_reply_accept(message.raw) else { return }
        let channel = SessionChannel(
            raw,
            session,
            number: nextNumber(),
            context: context,
            mailbox: mailbox,
            variables: variables
        )
        channels[raw] = channel
        sessions[channel.number] = channel
    }

    /// A channel that we have closed is not answered: libssh may have forgotten it already.
    private func request(_ message: SSHMessage) {
        guard let raw = ssh_message_channel_request_channel(message.raw), let channel = channels[raw] else { return }
        let accepted = (channel as? SessionChannel)?.handle(message, agentPath: agentPath) ?? false
        if accepted { ssh_message_channel_request_reply_success(message.raw) } else { message.refuse() }
    }

    // MARK: - Connections into the sandbox

    private func beginConnecting(_ message: SSHMessage) {
        let host = text(ssh_message_channel_request_open_destination(message.raw))
        let port = UInt16(clamping: ssh_message_channel_request_open_destination_port(message.raw))
        if host.hasPrefix("/") {
            attempts.append(
                ConnectionAttempt(message, lookup: nil, addresses: PeerAddress(path: host).map { [$0] } ?? [])
            )
        } else if lookups < SSHLimit.lookups {
            lookUp(host, port, for: message)
        } else {
            message.refuse()
        }
    }

    /// DNS may take long, and must not hold up the other channels.
    private func lookUp(_ host: String, _ port: UInt16, for message: SSHMessage) {
        let number = nextNumber()
        do {
            try startThread("martlet-lookup", stackBytes: SSHLimit.lookupStackBytes) { [mailbox] in
                mailbox.post(.resolved(number, PeerAddress.resolve(host, port: port)))
            }
            lookups += 1
            attempts.append(ConnectionAttempt(message, lookup: number, addresses: []))
        } catch {
            message.refuse()
        }
    }

    private func advanceAttempts() {
        attempts.removeAll { attempt in
            switch attempt.advance() {
            case .pending: return false
            case .failed: attempt.request.refuse()
            case .connected(let socket):
                if let raw = ssh_message_channel_request_open_reply_accept(attempt.request.raw) {
                    channels[raw] = SocketChannel(raw, session, socket: socket)
                }
            }
            return true
        }
    }

    // MARK: - Connections out of the sandbox

    private func globalRequest(_ message: SSHMessage) {
        switch ssh_global_requests_e(UInt32(bitPattern: message.subtype)) {
        case SSH_GLOBAL_REQUEST_TCPIP_FORWARD: listen(message)
        case SSH_GLOBAL_REQUEST_CANCEL_TCPIP_FORWARD: cancelListening(message)
        default: message.refuse()
        }
    }

    /// Whatever address is asked for, only programs of this sandbox can connect.
    private func listen(_ message: SSHMessage) {
        let address = text(ssh_message_global_request_address(message.raw))
        let asked = ssh_message_global_request_port(message.raw)
        guard listeners.count < SSHLimit.listeners, let port = UInt16(exactly: asked),
            let socket = PeerAddress.loopback(port: port).listen()
        else { return message.refuse() }
        let number = PeerAddress.of(socket.descriptor).port
        listeners.append(ForwardListener(.port(address: address, number: number), socket))
        ssh_message_global_request_reply_success(message.raw, UInt16(number))
    }

    private func cancelListening(_ message: SSHMessage) {
        let address = text(ssh_message_global_request_address(message.raw))
        let number = Int(ssh_message_global_request_port(message.raw))
        let index = listeners.firstIndex { listener in
            guard case .port(address, number) = listener.kind else { return false }
            return true
        }
        guard let index else { return message.refuse() }
        listeners.remove(at: index)
        ssh_message_global_request_reply_success(message.raw, 0)
    }

    /// The socket of the client's keys, made when the first program may use it.
    private func agentPath() -> String? {
        if agent == nil, let made = AgentSocket(in: context.spoolDirectory) {
            agent = made
            listeners.append(made.listener)
        }
        return agent?.path
    }

    private func acceptForwarded() {
        for listener in listeners {
            while hasRoom, let socket = listener.accept() {
                if let offer = ChannelOffer(session, listener.kind, socket) { offers.append(offer) }
            }
        }
    }

    private func advanceOffers() {
        offers.removeAll { offer in
            switch offer.advance() {
            case SSH_AGAIN: return false
            case SSH_OK:
                channels[offer.raw] = SocketChannel(offer.raw, session, hooks: offer.hooks, socket: offer.socket)
            default: offer.hooks.free()
            }
            return true
        }
    }
}
