import CLibSSH
import Glibc
import SSHServing
import Testing

@testable import SSHGateway

/// A relay between peers who log in properly, and then do not behave.
@Suite struct RelayTests {
    private final class Link {
        private(set) var client: RelayLeg?
        let server: RelayLeg

        /// Both ends of a connection, logged in.
        init() throws {
            let (one, other) = try #require(socketPair())
            let key = try newKey()
            let client = try #require(RelayLeg.client(one.take()))
            let server = try #require(RelayLeg.server(other.take(), key))
            (self.client, self.server) = (client, server)
            var (isConnected, hasKeys) = (false, false)
            try finish([client, server]) {
                if !isConnected { isConnected = ssh_connect(client.session) == SSH_OK }
                if !hasKeys { hasKeys = ssh_handle_key_exchange(server.session) == SSH_OK }
                return isConnected && hasKeys
            }
            try finish([client, server]) {
                _ = server.read(atMost: 8)
                while let message = server.nextMessage() {
                    if message.type == CInt(bitPattern: SSH_REQUEST_AUTH.rawValue) {
                        ssh_message_auth_reply_success(message.raw, 0)
                    } else {
                        message.refuse()
                    }
                }
                return ssh_userauth_publickey(client.session, nil, key.raw) == CInt(SSH_AUTH_SUCCESS.rawValue)
            }
        }

        /// The client dies.
        func kill() { client = nil }
    }

    private let outside: Link
    private let inside: Link
    private let relay: Relay

    init() throws {
        var limits = GatewayLimits()
        limits.floodBytes = 1 << 20
        (outside, inside) = (try Link(), try Link())
        relay = Relay(client: outside.server, sandbox: try #require(inside.client), limits: limits)
    }

    /// Serves as a connection does.
    private func turn() -> Bool {
        var places = relay.interests
        Glibc.poll(&places, nfds_t(places.count), 0)
        return relay.serve(places.map(\.revents))
    }

    /// Sends packets, which are answered and not passed on, and reads nothing.
    /// - Returns: why it ended.
    private func flood(_ leg: RelayLeg, with packet: PacketWriter) throws -> String? {
        let deadline = ContinuousClock.now + .seconds(60)
        while relay.fault == nil, ContinuousClock.now < deadline {
            for _ in 0..<100 where !leg.isWriting { leg.send(packet) }
            #expect(leg.write() && turn())
        }
        return relay.fault
    }

    @Test(arguments: [true, false]) func whoeverDoesNotTakeAnswersIsSentAway(isClient: Bool) throws {
        var opening = PacketWriter(PacketType.channelOpen)
        opening.add("session")
        for _ in 0..<3 { opening.add(1 << 15) }
        let leg = isClient ? outside.client : inside.server
        #expect(try flood(#require(leg), with: opening) == Farewell.flood)
    }

    /// libssh answers them by itself.
    @Test func packetsThatNobodyKnowsAreCountedToo() throws {
        #expect(try flood(#require(outside.client), with: PacketWriter(192)) == Farewell.flood)
    }

    @Test func aClientThatIsGoneLeavesNothingToWrite() throws {
        var data = PacketWriter(94)
        data.add(0)
        data.add(String(repeating: "x", count: 30_000))
        try finish([inside.server]) {
            inside.server.send(data)
            return !turn() || outside.server.isWriting
        }
        #expect(outside.server.isWriting)
        outside.kill()
        try finish([]) { !turn() }
        #expect(!outside.server.isWriting)
    }

    /// The reason is asked for, and the client may speak until it is known.
    @Test func whatIsSaidToASandboxThatIsGoneIsNoFault() throws {
        shutdown(inside.server.descriptor, CInt(SHUT_RDWR))
        var data = PacketWriter(94)
        data.add(0)
        data.add("words")
        let client = try #require(outside.client)
        for _ in 0..<9 {
            client.send(data)
            #expect(turn())
        }
        #expect(relay.isBereft && relay.fault == nil, "\(relay.fault ?? "")")
    }
}
