import CLibSSH
import Glibc
import SSHServing
import Testing

@testable import SSHGateway

/// What peers can do to the gateway who speak SSH, but not as they should.
@Suite struct PeerTests {
    /// Each request is answered at the length of the name in it.
    @Test func aStrangerWhoDoesNotTakeAnswersIsNotRead() async throws {
        try await TestGateway.with { gateway in
            let socket = try #require(PeerAddress.loopback(port: UInt16(gateway.service.port)).connectingSocket())
            let stranger = try #require(RelayLeg.client(socket))
            try finish([stranger]) { ssh_connect(stranger.session) == SSH_OK }
            var request = PacketWriter(5)
            request.add(String(repeating: "x", count: 16 << 10))
            let limit = 48 << 20
            var taken = 0
            while taken < limit {
                stranger.send(request)
                taken += request.bytes.count
                while stranger.isWriting, isWritable(stranger) { #expect(stranger.write()) }
                if stranger.isWriting { break }
            }
            #expect(taken < limit, "it is read for ever")
        }
    }

    /// For half a second at most.
    private func isWritable(_ leg: RelayLeg) -> Bool {
        var place = pollfd(fd: leg.descriptor, events: Int16(POLLOUT), revents: 0)
        return Glibc.poll(&place, 1, 500) == 1
    }

    /// It could go on for as long as the sender is faster.
    @Test func inputIsThrownAwayInTurns() throws {
        let (ours, theirs) = try #require(socketPair())
        let leg = try #require(RelayLeg.server(ours.take(), try newKey()))
        let sent = fill(theirs.descriptor)
        #expect(sent > 16 << 10)
        #expect(leg.discardInput(atMost: 1))
        var byte: UInt8 = 0
        #expect(recv(leg.descriptor, &byte, 1, CInt(MSG_PEEK | MSG_DONTWAIT)) == 1, "the rest is there still")
        #expect(leg.discardInput(atMost: sent))
        shutdown(theirs.descriptor, CInt(SHUT_WR))
        #expect(!leg.discardInput(atMost: 1))
    }

    /// - Returns: how many bytes it took.
    private func fill(_ socket: CInt) -> Int {
        let piece = [UInt8](repeating: 0, count: 16 << 10)
        var sent = 0
        while true {
            let count = send(socket, piece, piece.count, CInt(MSG_DONTWAIT))
            guard count > 0 else { return sent }
            sent += count
        }
    }
}

/// Has legs written and read until it is so, for a minute at most.
func finish(_ legs: [RelayLeg], until isDone: () -> Bool) throws {
    let deadline = ContinuousClock.now + .seconds(60)
    while !isDone() {
        try #require(ContinuousClock.now < deadline)
        for leg in legs { _ = leg.write() }
        var places = legs.map { $0.interest(reading: true) }
        Glibc.poll(&places, nfds_t(places.count), 10)
    }
}

func newKey() throws -> KeyPair { try #require(KeyPair.newFile().flatMap { KeyPair(file: $0) }) }
