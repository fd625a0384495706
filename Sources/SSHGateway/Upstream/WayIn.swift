import CLibSSH
import Glibc
import Proxy
import SSHServing
import Store

/// The way from an admission to the sandbox's own SSH server, a step at a time and without waiting:
///
///     tunnel to the daemon ─▶ our key let in ─▶ tunnel to the server ─▶ keys exchanged, host key as told ─▶ logged in
final class WayIn {
    /// Where the daemon listens in each sandbox.
    private static let daemonPort = 2280

    private enum Step {
        case reachingDaemon
        case requesting(KeyRequest)
        case reachingServer(hostKey: String)
        /// libssh closes a socket only once it connects, so until then the tunnel stays ours.
        case reachedServer(OwnedSocket, hostKey: String)
        case connecting(RelayLeg, hostKey: String)
        case loggingIn(RelayLeg, with: KeyPair)
        case over
    }

    enum Outcome {
        case pending
        case there(RelayLeg)
        case failed(String)
    }

    let deadline: ContinuousClock.Instant
    private let destination: Destination
    private let key: KeyPair
    private let desk: ErrandDesk
    private let mailbox: Mailbox<GatewayNews>
    private let limits: GatewayLimits
    private var step = Step.reachingDaemon
    private var failure: String?

    init(_ route: Route, key: KeyPair, desk: ErrandDesk, mailbox: Mailbox<GatewayNews>, limits: GatewayLimits) {
        destination = Destination(route)
        (self.key, self.desk, self.mailbox, self.limits) = (key, desk, mailbox, limits)
        deadline = .now + limits.entryDeadline
        desk.open(destination, port: Self.daemonPort, tell: mailbox)
    }

    /// What to wait for, besides news.
    var interest: pollfd? {
        switch step {
        case .requesting(let request): request.interest
        case .connecting(let leg, _), .loggingIn(let leg, _): leg.interest(reading: true)
        case .reachingDaemon, .reachingServer, .reachedServer, .over: nil
        }
    }

    /// libssh has read what nothing will tell of.
    var hasUnseen: Bool {
        switch step {
        case .connecting(let leg, _), .loggingIn(let leg, _): leg.hasUnseen
        case .reachingDaemon, .requesting, .reachingServer, .reachedServer, .over: false
        }
    }

    /// The tunnel that was asked for last.
    func arrived(_ tunnel: Result<OwnedSocket, TunnelRefusal>) {
        switch (tunnel, step) {
        case (.failure(let refusal), _): failure = refusal.message
        case (.success(let socket), .reachingDaemon):
            step = .requesting(KeyRequest(socket, key: key.line, tokenLine: destination.tokenLine, limits: limits))
        case (.success(let socket), .reachingServer(let hostKey)):
            step = .reachedServer(socket, hostKey: hostKey)
        case (.success, _): break
        }
    }

    /// Does what can be done now.
    func advance() -> Outcome {
        if failure == nil { goOn() }
        if failure == nil, case .loggingIn(let leg, let key) = step, case .done = logIn(leg, key) {
            step = .over
            return .there(leg)
        }
        return failure.map { .failed($0) } ?? .pending
    }

    private func goOn() {
        switch step {
        case .requesting(var request):
            switch request.advance() {
            case .pending: step = .requesting(request)
            case .failed(let reason): failure = reason
            case .done(let server):
                step = .reachingServer(hostKey: server.hostKey)
                desk.open(destination, port: server.port, tell: mailbox)
            }
        case .reachedServer(let socket, let hostKey):
            guard let leg = RelayLeg.client(socket.take()) else { return failure = Farewell.lost }
            step = .connecting(leg, hostKey: hostKey)
            connect(leg, hostKey)
        case .connecting(let leg, let hostKey): connect(leg, hostKey)
        case .reachingDaemon, .reachingServer, .loggingIn, .over: break
        }
    }

    private func connect(_ leg: RelayLeg, _ hostKey: String) {
        switch progress(leg, { ssh_connect(leg.session) }) {
        case .pending: break
        case .failed: failure = "the SSH server of the sandbox does not answer as one; try again"
        case .done:
            guard Self.hostKey(of: leg.session) == hostKey else {
                failure =
                    "the SSH server of the sandbox shows another key than its daemon told; stop and start the sandbox"
                return
            }
            guard let key = key.copy() else { return failure = Farewell.lost }
            step = .loggingIn(leg, with: key)
        }
    }

    private enum Progress { case pending, done, failed }

    private func logIn(_ leg: RelayLeg, _ key: KeyPair) -> Progress {
        let progress = progress(leg) { ssh_userauth_publickey(leg.session, nil, key.raw) }
        if progress == .failed { failure = "the SSH server of the sandbox refuses our key; try again" }
        return progress
    }

    /// Calls a function of libssh that is to be called again until it is done, and writes what it wants to.
    private func progress(_ leg: RelayLeg, _ call: () -> CInt) -> Progress {
        let result = call()
        guard leg.write() else { return .failed }
        // Both kinds of functions have these two in common.
        if result == SSH_OK { return .done }
        if result == SSH_AGAIN || result == CInt(SSH_AUTH_AGAIN.rawValue) {
            return leg.markSeen() ? .pending : .failed
        }
        return .failed
    }

    private static func hostKey(of session: ssh_session) -> String? {
        var key: ssh_key?
        guard ssh_get_server_publickey(session, &key) == SSH_OK, let key else { return nil }
        defer { ssh_key_free(key) }
        return PublicKey(key)?.line
    }
}
