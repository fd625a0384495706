import CLibSSH
import Glibc
import HTTPTypes
import Logging
import NIOCore
import SSHServing
import Synchronization

/// The sandbox's SSH server. It costs nothing until a key is authorised; then it listens on the loopback, on a thread that
/// accepts and starts a thread for each connection.
final class SSHServer: Sendable {
    private struct State {
        var keys: [PublicKey: ContinuousClock.Instant] = [:]
        var hostKey: KeyPair?
        var port: Int?
        /// Closing it ends the listener's thread.
        var listener: ConnectionMailbox?
        var connections: [ObjectIdentifier: Connection] = [:]
        var hasStopped = false
    }

    private struct Connection {
        var mailbox: ConnectionMailbox
        var key: PublicKey?
    }

    private let token: AccessToken
    private let port: Int
    private let ownPorts: OwnPorts
    private let context: SessionContext
    private let logger: Logger
    private let state = Mutex(State())

    /// - Parameters:
    ///   - token: the sandbox's secret, of which the host key is made when it is first needed. The routes that need it ask
    ///     for the token, so that it is known then.
    ///   - port: preferred; 0 for any.
    ///   - ownPorts: gets the port that it became.
    init(token: AccessToken, port: Int, ownPorts: OwnPorts, context: SessionContext, logger: Logger) {
        self.token = token
        self.port = port
        self.ownPorts = ownPorts
        self.context = context
        self.logger = logger
    }

    // MARK: - Keys

    /// Lets keys in for a while, longer if they were already, and listens from the first time on.
    /// - Throws: 400 if there are too many, 503 if the port cannot be listened on or the sandbox is stopping.
    func authorize(_ keys: [PublicKey], for duration: Duration) throws {
        try state.withLock { state in
            guard !state.hasStopped else { throw Self.unavailable("the sandbox is stopping") }
            var all = state.keys.filter { $0.value > .now }
            for key in keys { all[key] = max(all[key] ?? .now, .now + duration) }
            guard all.count <= SSHLimit.keys else {
                throw ToolboxError.badRequest(
                    "\(all.count) keys would be authorised, the limit is \(SSHLimit.keys); remove some with DELETE"
                )
            }
            if state.port == nil { try listen(&state) }
            state.keys = all
        }
    }

    /// Lets a key in no more, or none at all if it is nil, and ends the connections that it opened.
    func revoke(_ key: PublicKey?) {
        let ended = state.withLock { state in
            if let key { state.keys[key] = nil } else { state.keys = [:] }
            return state.connections.values.filter { $0.key != nil && (key == nil || $0.key == key) }
        }
        for connection in ended { connection.mailbox.post(.end) }
    }

    /// Whether a key is let in now.
    func isAuthorized(_ key: PublicKey) -> Bool {
        state.withLock { state in state.keys[key].map { $0 > .now } ?? false }
    }

    /// What there is.
    var status: SSHStatus {
        state.withLock { state in
            let keys = state.keys.filter { $0.value > .now }
                .map {
                    SSHStatus.Key(key: $0.key.line, expiresInSeconds: Int(($0.value - .now).components.seconds) + 1)
                }
                .sorted { $0.key < $1.key }
            let connections = state.connections.values.count { $0.key != nil }
            return SSHStatus(port: state.port, hostKey: state.hostKey?.line, connections: connections, keys: keys)
        }
    }

    /// Set from the first connection on.
    var hostKey: KeyPair? { state.withLock { $0.hostKey } }

    // MARK: - Connections

    /// Called on a connection's thread when its client has shown that it has the key.
    func loggedIn(_ mailbox: ConnectionMailbox, with key: PublicKey, as user: String) {
        logger.info("ssh login", metadata: ["ssh.user": "\(user)", "ssh.key.type": "\(key.type)"])
        let isStillIn = state.withLock { state in
            state.connections[ObjectIdentifier(mailbox)]?.key = key
            return state.keys[key] != nil
        }
        if !isStillIn { mailbox.post(.end) }
    }

    private func listen(_ state: inout State) throws {
        martlet_ssh_prepare()
        guard let hostKey = token.derived(KeyPair.init(token:)) else {
            throw Self.unavailable("no host key can be made")
        }
        // An image may run an SSH server of its own: then any port does, for who asks is told which it is.
        let chosen = PeerAddress.loopback(port: UInt16(port)).listen()
        guard let socket = chosen ?? PeerAddress.loopback(port: 0).listen() else {
            throw Self.unavailable("cannot listen on port \(port): \(describeErrno(errno))")
        }
        let mailbox = try ConnectionMailbox()
        try startThread("martlet-ssh") { [self] in acceptConnections(socket, until: mailbox) }
        state.hostKey = hostKey
        let bound = PeerAddress.of(socket.descriptor).port
        ownPorts.insert(bound)
        state.port = bound
        state.listener = mailbox
    }

    private func acceptConnections(_ socket: OpenFile, until mailbox: ConnectionMailbox) {
        while true {
            var list = [
                pollfd(fd: socket.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: mailbox.wake, events: Int16(POLLIN), revents: 0),
            ]
            poll(&list, nfds_t(list.count), -1)
            if list[1].revents != 0 { return }
            let descriptor = accept(socket.descriptor, nil, nil)
            if descriptor >= 0 { begin(descriptor) } else if errno != EAGAIN { waitForDescriptors() }
        }
    }

    /// With no descriptor left for it, a connection stays acceptable: the thread must not spin.
    private func waitForDescriptors() { usleep(50_000) }

    private func begin(_ descriptor: CInt) {
        setNonBlocking(descriptor)
        var on: CInt = 1
        setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, socklen_t(MemoryLayout<CInt>.size))
        setsockopt(descriptor, CInt(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<CInt>.size))
        do {
            let mailbox = try register()
            do {
                try startThread("martlet-ssh-one") { [self, context] in
                    SSHConnection(descriptor, self, context, mailbox)?.run()
                    unregister(mailbox)
                }
            } catch {
                unregister(mailbox)
                throw error
            }
        } catch {
            logger.warning("ssh connection refused", metadata: ["error": "\(error)"])
            close(descriptor)
        }
    }

    private func register() throws -> ConnectionMailbox {
        let mailbox = try ConnectionMailbox()
        try state.withLock { state in
            guard !state.hasStopped, state.connections.count < SSHLimit.connections else {
                throw Self.unavailable(
                    "there are \(state.connections.count) connections, the limit is \(SSHLimit.connections)"
                )
            }
            state.connections[ObjectIdentifier(mailbox)] = Connection(mailbox: mailbox)
        }
        return mailbox
    }

    private func unregister(_ mailbox: ConnectionMailbox) {
        state.withLock { $0.connections[ObjectIdentifier(mailbox)] = nil }
    }

    /// Listens no more and ends all connections, with a limit on how long that may take.
    func stop() async {
        let (listener, connections) = state.withLock { state in
            state.hasStopped = true
            return (state.listener, Array(state.connections.values))
        }
        listener?.post(.end)
        for connection in connections { connection.mailbox.post(.end) }
        let deadline = ContinuousClock.now + .seconds(2)
        // Polls, because stopping happens once and connections end within a millisecond as a rule.
        while !state.withLock({ $0.connections.isEmpty }), .now < deadline {
            try? await Task.sleep(for: .milliseconds(5))
        }
    }

    private static func unavailable(_ reason: String) -> ToolboxError {
        ToolboxError(.serviceUnavailable, "INTERNAL_SERVER_ERROR", "the SSH server is not available: \(reason)")
    }
}
