import CLibSSH
import Domain
import Glibc
import Limiting
import Logging
import Proxy
import SSHServing
import Store

/// One client's connection, from its first byte to its last, on a thread of its own.
///
///     exchangingKeys ─▶ loggingIn ─token good─▶ entering ─there─▶ relaying ─sandbox's end─▶ bereft
///            └──────────────┴────────────────────────┴────────────────┴──────a last word──────┴──▶ leaving
final class GatewayConnection {
    private enum Phase {
        case exchangingKeys
        case loggingIn
        case entering(WayIn)
        case relaying(Relay)
        /// Why it ended is asked for, at once and at each change, until then.
        case bereft(Relay, until: ContinuousClock.Instant)
        /// What is on its way may still arrive, until then.
        case leaving(RelayLeg?, until: ContinuousClock.Instant)
        /// All is written, and the client shall have time to read it: closing at once would throw away what it has not read
        /// where we have not read all of its.
        case lingering(until: ContinuousClock.Instant)
    }

    private let gateway: GatewayFloor
    private let mailbox: Mailbox<GatewayNews>
    private let address: String
    private let place: Place
    private let client: RelayLeg
    private var phase = Phase.exchangingKeys
    private var isOver = false
    private let loginDeadline: ContinuousClock.Instant
    private var login: Login
    private var tokenHash: [UInt8] = []
    private var inquiry = Inquiry()
    private var admission: SSHAdmission?
    private var sandbox: RelayLeg?
    private var expiresAt: ContinuousClock.Instant?
    private var recheckAt: ContinuousClock.Instant?
    private var activityAt: ContinuousClock.Instant?

    private var limits: GatewayLimits { gateway.limits }

    /// - Parameter descriptor: a connected socket that never blocks; it is taken over.
    init?(_ descriptor: CInt, from address: String, _ gateway: GatewayFloor, _ mailbox: Mailbox<GatewayNews>) {
        guard let client = RelayLeg.server(descriptor, gateway.hostKey) else { return nil }
        (self.client, self.gateway, self.mailbox, self.address) = (client, gateway, mailbox, address)
        place = Place(of: address)
        login = Login(limits: gateway.limits)
        loginDeadline = .now + gateway.limits.loginDeadline
    }

    // MARK: - The loop

    /// Serves until either side ends it.
    func run() {
        defer { end() }
        guard ssh_handle_key_exchange(client.session) != SSH_ERROR else { return }
        while !isOver {
            let events = wait()
            serve(events)
            takeNews()
            keepTime()
        }
    }

    /// - Returns: what happened to the client's socket, and to the sandbox's.
    private func wait() -> [Int16] {
        var list = [pollfd(fd: mailbox.wake, events: Int16(POLLIN), revents: 0)] + interests
        poll(&list, nfds_t(list.count), hasUnseen ? 0 : timeout)
        return list.dropFirst().map(\.revents)
    }

    private var interests: [pollfd] {
        switch phase {
        case .exchangingKeys, .loggingIn: [client.interest(reading: mayReadLogin)]
        case .entering(let way): [client.interest(reading: false)] + (way.interest.map { [$0] } ?? [])
        case .relaying(let relay), .bereft(let relay, _): relay.interests
        case .leaving(let sandbox, _):
            ([client] + (sandbox.map { [$0] } ?? [])).filter(\.isWriting).map { $0.interest(reading: false) }
        case .lingering: [client.interest(reading: true)]
        }
    }

    private var hasUnseen: Bool {
        switch phase {
        case .exchangingKeys, .loggingIn: client.hasUnseen && mayReadLogin
        case .entering(let way): way.hasUnseen
        case .relaying(let relay), .bereft(let relay, _): relay.hasUnseen
        // No socket tells that there is nothing to write.
        case .leaving(let sandbox, _): !client.isWriting && sandbox?.isWriting != true
        case .lingering: false
        }
    }

    private func serve(_ events: [Int16]) {
        switch phase {
        case .exchangingKeys: exchangeKeys()
        case .loggingIn: readLogin(events)
        case .entering(let way): enter(way, events)
        case .relaying(let relay), .bereft(let relay, _): serve(relay, events)
        case .leaving(let sandbox, _):
            let isWritten = [client, sandbox].allSatisfy { leg in leg.map { !$0.write() || !$0.isWriting } ?? true }
            if isWritten { linger() }
        case .lingering: if !discardInput() { isOver = true }
        }
    }

    // MARK: - Logging in

    /// One attempt at a time, and nothing from a stranger who does not take our answers, some of which are libssh's own. What
    /// comes meanwhile waits in the kernel.
    private var mayReadLogin: Bool { !login.isBusy && !client.isWriting }

    private func exchangeKeys() {
        guard client.write() else { return isOver = true }
        guard mayReadLogin else { return }
        guard client.read(atMost: limits.readsPerTurn, while: { mayReadLogin }), client.write() else {
            return isOver = true
        }
        switch ssh_handle_key_exchange(client.session) {
        case SSH_OK:
            phase = .loggingIn
            // What came together with the last of the keys was read with it.
            takeMessages()
        case SSH_AGAIN: break
        default: isOver = true
        }
    }

    private func readLogin(_ events: [Int16]) {
        if isGone(events) || !client.write() { return isOver = true }
        guard mayReadLogin else { return }
        guard client.read(atMost: 1) else { return isOver = true }
        takeMessages()
    }

    private func takeMessages() {
        while !login.isBusy, let message = client.nextMessage() {
            if message.type == CInt(bitPattern: SSH_REQUEST_AUTH.rawValue) { begin(message) } else { message.refuse() }
        }
    }

    private func isGone(_ events: [Int16]) -> Bool { (events.first ?? 0) & Int16(POLLHUP | POLLERR) != 0 }

    private func begin(_ message: SSHMessage) {
        guard let token = login.begin(message) else { return }
        tokenHash = token.hash
        ask()
    }

    /// Asks the database what the token opens now.
    private func ask() {
        if inquiry.begin() { gateway.desk.admit(tokenHash, tell: mailbox) }
    }

    private func judge() {
        let isSuspect = gateway.failures.isExhausted(place)
        switch login.judge(isSuspect: isSuspect) {
        case .pending: break
        case .admitted(let admission): enter(admission)
        case .refused:
            gateway.failures.note(place)
            takeMessages()
        case .exhausted:
            gateway.failures.note(place)
            leave(Farewell.refused)
        }
    }

    // MARK: - Entering

    private func enter(_ admission: SSHAdmission) {
        if let reason = Farewell.reason(admission.sandbox, is: admission.state) { return leave(reason) }
        guard let route = admission.route else { return leave(Farewell.lost) }
        guard gateway.enter(admission, mailbox) else {
            return leave(Farewell.tooMany(admission.sandbox, limit: limits.connectionsPerSandboxLimit))
        }
        self.admission = admission
        // It may have been revoked before there was anybody to be told.
        ask()
        expiresAt = .now + admission.timeLeft
        activityAt = .now
        phase = .entering(
            WayIn(route, key: gateway.clientKey, desk: gateway.desk, mailbox: mailbox, limits: limits)
        )
    }

    private func enter(_ way: WayIn, _ events: [Int16]) {
        if isGone(events) { return isOver = true }
        switch way.advance() {
        case .pending: break
        case .failed(let reason): leave(reason)
        case .there(let leg):
            sandbox = leg
            phase = .relaying(Relay(client: client, sandbox: leg, limits: limits))
            // Only now, so that nothing comes before there is somebody to take it.
            login.accept()
            gateway.log.info("ssh session", metadata: metadata)
        }
    }

    private var metadata: Logger.Metadata {
        [
            "ssh.client": "\(address)", "sandbox.id": "\(admission.map { "\($0.sandbox)" } ?? "")",
            "ssh.access": "\(admission.map { "\($0.access)" } ?? "")",
        ]
    }

    // MARK: - Relaying

    private func serve(_ relay: Relay, _ events: [Int16]) {
        guard relay.serve(events) else {
            relay.stop()
            // What the client sent last still reaches the sandbox.
            phase = .leaving(sandbox, until: .now + limits.farewellDeadline)
            return
        }
        // A client that has logged in has no more to say to us, and gets no answer (RFC 4252); libssh would keep what it says.
        while client.nextMessage() != nil {}
        if let fault = relay.fault { return leave(fault) }
        if relay.isBereft, case .relaying = phase {
            phase = .bereft(relay, until: .now + limits.reasonDeadline)
            ask()
        }
    }

    /// Looks at a session that is open, or has lost its sandbox, with what the database says now.
    private func review(_ answer: Result<SSHAdmission?, any Error>) {
        switch answer {
        case .failure: recheckAt = .now + limits.recheckPause
        case .success(nil): leave(Farewell.revoked)
        case .success(let new?):
            recheckAt = nil
            if let reason = Farewell.reasonToEnd(new.sandbox, is: new.state) { return leave(reason) }
            if let old = admission?.route?.epoch, let epoch = new.route?.epoch, old != epoch {
                return leave(Farewell.moved)
            }
            admission = new
            expiresAt = .now + new.timeLeft
        }
    }

    // MARK: - News and time

    private func takeNews() {
        for news in mailbox.take() where !isOver {
            if case .admission = news, inquiry.end() { gateway.desk.admit(tokenHash, tell: mailbox) }
            switch (news, phase) {
            case (_, .leaving), (_, .lingering): break
            case (.end(let word), _): leave(word)
            case (.admission(.success(let found)), .loggingIn): login.learn(found)
            case (.admission(.failure), .loggingIn): leave(Farewell.database)
            case (.admission(let answer), .entering), (.admission(let answer), .relaying),
                (.admission(let answer), .bereft):
                review(answer)
            case (.tunnel(let tunnel), .entering(let way)): way.arrived(tunnel)
            case (.recheck, .entering), (.recheck, .relaying), (.recheck, .bereft): ask()
            case (.recheck, _), (.admission, .exchangingKeys), (.tunnel, _): break
            }
        }
        if case .loggingIn = phase, !isOver { judge() }
        // News may be what it waits for, and no socket will tell.
        if case .entering(let way) = phase, !isOver { enter(way, []) }
    }

    /// Milliseconds until something must be done whatever happens.
    private var timeout: CInt {
        let first = deadlines.min() ?? .now + .seconds(60)
        let (seconds, attoseconds) = (first - .now).components
        return CInt(clamping: max(0, seconds * 1000 + attoseconds / 1_000_000_000_000_000 + 1))
    }

    private var deadlines: [ContinuousClock.Instant] {
        switch phase {
        case .exchangingKeys: [loginDeadline]
        case .loggingIn: [loginDeadline] + (login.deadline.map { [$0] } ?? [])
        case .entering(let way): [way.deadline]
        case .relaying(let relay): [relay.deadline] + [expiresAt, recheckAt, activityAt].compactMap { $0 }
        case .bereft(_, let until), .leaving(_, let until), .lingering(let until): [until]
        }
    }

    private func keepTime() {
        let now = ContinuousClock.now
        switch phase {
        case .exchangingKeys: if loginDeadline <= now { isOver = true }
        case .loggingIn: if loginDeadline <= now { leave(Farewell.slow) }
        case .entering(let way):
            if way.deadline <= now, let sandbox = admission?.sandbox { leave(Farewell.unreachable(sandbox)) }
        case .relaying: keepTimeOfSession(now)
        case .bereft(_, let until): if until <= now { leave(Farewell.lost) }
        case .leaving(_, let until), .lingering(let until): if until <= now { isOver = true }
        }
    }

    private func keepTimeOfSession(_ now: ContinuousClock.Instant) {
        if let expiresAt, expiresAt <= now { return leave(Farewell.expired) }
        if let recheckAt, recheckAt <= now {
            self.recheckAt = nil
            ask()
        }
        if let activityAt, activityAt <= now, let admission {
            gateway.activity.mark(admission.sandbox)
            self.activityAt = now + limits.activityInterval
        }
    }

    // MARK: - Ends

    /// Says a last word to the client, and ends the sandbox's side at once.
    private func leave(_ word: String) {
        switch phase {
        case .relaying(let relay), .bereft(let relay, _): relay.stop()
        case .exchangingKeys, .loggingIn, .entering, .leaving, .lingering: break
        }
        gateway.log.info("ssh connection ends", metadata: metadata.merging(["ssh.reason": "\(word)"]) { $1 })
        login.abandon()
        sandbox = nil
        client.send(.disconnect(word))
        phase = .leaving(nil, until: .now + limits.farewellDeadline)
    }

    private func linger() {
        shutdown(client.descriptor, CInt(SHUT_WR))
        isOver = !discardInput()
        phase = .lingering(until: .now + limits.lingerDeadline)
    }

    private func discardInput() -> Bool { client.discardInput(atMost: limits.readsPerTurn) }

    private func end() {
        mailbox.close()
        login.abandon()
    }
}
