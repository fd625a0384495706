import Glibc

/// Passes packets between a client and its sandbox's server. They have the connection protocol with each other: channels,
/// windows and all requests are theirs, and arrive as they were sent. The gateway only counts, so that nothing grows, and
/// asks both for signs of life.
final class Relay {
    private struct Side {
        let leg: RelayLeg
        var requests: RequestAccount
        var pulse: Pulse
    }

    private let limits: GatewayLimits
    private var client: Side
    private var sandbox: Side
    private var channels: ChannelAccount
    /// Why it must end.
    private(set) var fault: String?
    /// The sandbox's side has ended; what it sent before is still passed on.
    private(set) var isBereft = false

    init(client: RelayLeg, sandbox: RelayLeg, limits: GatewayLimits) {
        self.limits = limits
        let side = {
            Side(leg: $0, requests: RequestAccount(limit: limits.unansweredRequestsLimit), pulse: Pulse(limits))
        }
        (self.client, self.sandbox) = (side(client), side(sandbox))
        channels = ChannelAccount(limit: limits.channelsLimit)
        client.handlePackets { [unowned self] in pass($0, $1, from: \.client, to: \.sandbox) }
        sandbox.handlePackets { [unowned self] in pass($0, $1, from: \.sandbox, to: \.client) }
    }

    /// Packets that still come are dropped.
    func stop() {
        client.leg.handlePackets(nil)
        sandbox.leg.handlePackets(nil)
    }

    // MARK: - Turns

    /// What to wait for: the client's socket, then the sandbox's.
    var interests: [pollfd] {
        var ofSandbox = sandbox.leg.interest(reading: mayRead(sandbox, for: client) && !isBereft)
        // The kernel tells of a closed peer whether asked or not; it shall not while there is more to pass on first.
        if ofSandbox.events == 0 || isBereft { ofSandbox.fd = -1 }
        return [client.leg.interest(reading: mayRead(client, for: sandbox)), ofSandbox]
    }

    /// Something came that no socket tells of.
    var hasUnseen: Bool { client.leg.hasUnseen || sandbox.leg.hasUnseen && !isBereft }

    var deadline: ContinuousClock.Instant { min(client.pulse.deadline, sandbox.pulse.deadline) }

    /// Passes on what there is, without waiting.
    /// - Parameter events: what was waited for, as `interests` has it.
    /// - Returns: false once the client is gone.
    func serve(_ events: [Int16]) -> Bool {
        let gone = Int16(POLLHUP | POLLERR)
        if events[0] & gone != 0, !mayRead(client, for: sandbox) { return false }
        guard client.leg.write() else { return false }
        if !isBereft, !sandbox.leg.write() { isBereft = true }
        let isThere = read(client, for: sandbox)
        if !isBereft, !read(sandbox, for: client) { isBereft = true }
        // What was read shall not wait for the next turn.
        if !isBereft, !sandbox.leg.write() { isBereft = true }
        guard isThere, client.leg.write() else { return false }
        takePulses()
        // One turn adds little, so it is enough to look after each.
        if max(client.leg.unwritten, sandbox.leg.unwritten) > limits.floodBytes { fault = fault ?? Farewell.flood }
        return true
    }

    private func read(_ side: Side, for other: Side) -> Bool {
        guard mayRead(side, for: other) else { return true }
        return side.leg.read(atMost: limits.readsPerTurn) { mayRead(side, for: other) && fault == nil }
    }

    /// A side is not read while the other has not taken what it sent. One that agrees on new keys must be, since they cannot
    /// be agreed on otherwise: both may be at it.
    private func mayRead(_ side: Side, for other: Side) -> Bool {
        side.leg.isChangingKeys || !(other.leg.isChangingKeys || other.leg.unwritten >= limits.unwrittenBytes)
    }

    private func takePulses() {
        if let word = takePulse(\.client, "the client") ?? takePulse(\.sandbox, "the sandbox") { fault = fault ?? word }
    }

    private func takePulse(_ side: ReferenceWritableKeyPath<Relay, Side>, _ name: String) -> String? {
        self[keyPath: side].pulse.note(self[keyPath: side].leg.bytesRead)
        switch self[keyPath: side].pulse.look() {
        case .nothing: break
        case .dead: return Farewell.dead(name, after: limits.silenceLimit)
        case .ask:
            if self[keyPath: side].requests.sent(isOurs: true) { self[keyPath: side].leg.send(.keepAlive) }
        }
        return nil
    }

    // MARK: - Packets

    private typealias Place = ReferenceWritableKeyPath<Relay, Side>

    private func pass(_ type: UInt8, _ bytes: UnsafeRawBufferPointer, from source: Place, to target: Place) {
        // What the client says to nobody does not keep it from hearing why.
        if isBereft, target == \.sandbox { return }
        let isPassed =
            switch type {
            case PacketType.globalRequest: noteRequest(bytes, to: target)
            // Answers to what the gateway asked, or nobody, go nowhere.
            case PacketType.requestSuccess, PacketType.requestFailure:
                self[keyPath: source].requests.answered() == false
            case PacketType.channelOpen: noteOpening(bytes, from: source)
            case PacketType.channels: noteChannel(type)
            default: false
            }
        guard isPassed, fault == nil, !self[keyPath: target].leg.send(type, bytes) else { return }
        // That the sandbox has ended its side has a reason, which is asked for.
        if target == \.sandbox, !sandbox.leg.isOpen { isBereft = true } else { fault = Farewell.broken }
    }

    private func noteRequest(_ bytes: UnsafeRawBufferPointer, to target: Place) -> Bool {
        var reader = PacketReader(bytes)
        guard reader.skipString(), let wantsAnswer = reader.boolean() else { return false }
        if wantsAnswer, !self[keyPath: target].requests.sent(isOurs: false) {
            fault = "more than \(limits.unansweredRequestsLimit) requests wait for an answer"
        }
        return true
    }

    private func noteOpening(_ bytes: UnsafeRawBufferPointer, from source: Place) -> Bool {
        var reader = PacketReader(bytes)
        guard reader.skipString(), let number = reader.number() else { return false }
        if channels.open() { return true }
        self[keyPath: source].leg.send(.noRoom(for: number, limit: limits.channelsLimit))
        return false
    }

    private func noteChannel(_ type: UInt8) -> Bool {
        if type == PacketType.channelOpenFailure { channels.failed() }
        if type == PacketType.channelClose { channels.closed() }
        return true
    }
}
