import CLibSSH
import Domain
import Glibc
import NIOPosix
import Proxy
import SSHServing
import Store
import TestSupport
import Testing

@testable import SSHGateway

/// The way into a sandbox whose daemon and server are played here.
@Suite struct WayInTests {
    private static let route = Route(
        sandbox: .random(),
        organization: .random(),
        runner: .random(),
        epoch: 1,
        state: "started",
        isPublic: false,
        toolboxToken: "token",
        signingKey: "key",
        ingressAddress: "127.0.0.1:1",
        tlsFingerprint: "",
        ingressSecret: []
    )

    /// A way that has reached the daemon, and been told the server's host key.
    private func beginning(hostKey: String) throws -> WayIn {
        let limits = GatewayLimits()
        let tunnels = try RunnerTunnels(group: MultiThreadedEventLoopGroup.singleton, limits: limits)
        let desk = ErrandDesk(source: NoSource(), tunnels: tunnels, limits: limits, log: TestStack.logger)
        let way = WayIn(Self.route, key: try newKey(), desk: desk, mailbox: try Mailbox(), limits: limits)
        let (ours, daemon) = try #require(socketPair())
        way.arrived(.success(ours))
        answer(daemon, #"{"port":22,"hostKey":"\#(hostKey)"}"#)
        withExtendedLifetime(daemon) { #expect(way.advance() == .pending) }
        return way
    }

    /// It answers before it was asked: the socket keeps it.
    private func answer(_ daemon: OwnedSocket, _ body: String) {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
        #expect(send(daemon.descriptor, text, text.utf8.count, CInt(MSG_NOSIGNAL)) == text.utf8.count)
        shutdown(daemon.descriptor, CInt(SHUT_WR))
    }

    @Test func aTunnelThatNobodyTakesIsClosed() throws {
        var way: WayIn? = try beginning(hostKey: "ssh-ed25519 AAAA")
        var server: OwnedSocket?
        do {
            let (ours, theirs) = try #require(socketPair())
            server = theirs
            way?.arrived(.success(ours))
        }
        way = nil
        var byte: UInt8 = 0
        #expect(recv(try #require(server).descriptor, &byte, 1, CInt(MSG_DONTWAIT)) == 0, "its other end is open")
    }

    @Test func aServerThatRefusesOurKeyIsNamed() throws {
        let hostKey = try newKey()
        let way = try beginning(hostKey: hostKey.line)
        let (ours, theirs) = try #require(socketPair())
        let server = try #require(RelayLeg.server(theirs.take(), hostKey))
        way.arrived(.success(ours))
        var hasKeys = false
        var outcome = WayIn.Outcome.pending
        try finish([server]) {
            outcome = way.advance()
            if hasKeys {
                _ = server.read(atMost: 8)
                while let message = server.nextMessage() { message.refuse() }
            } else {
                hasKeys = ssh_handle_key_exchange(server.session) == SSH_OK
            }
            return outcome != .pending
        }
        #expect(outcome == .failed("the SSH server of the sandbox refuses our key; try again"))
    }
}

extension WayIn.Outcome: Equatable {
    static func == (one: Self, other: Self) -> Bool {
        switch (one, other) {
        case (.pending, .pending): true
        case (.there(let leg), .there(let another)): leg === another
        case (.failed(let reason), .failed(let another)): reason == another
        default: false
        }
    }
}

private struct NoSource: SSHAccessSource {
    func admission(tokenHash: [UInt8]) async throws -> SSHAdmission? { nil }
    func followChanges(_ handle: @Sendable (SSHAccessChange) -> Void) async throws {}
    func reportActivity(of sandboxes: [SandboxID]) async throws {}
}
