import Domain
import Limiting
import SSHServing
import Testing

@testable import SSHGateway

/// What the gateway counts of what passes, and what it says.
@Suite struct AccountTests {
    @Test func answersGoToWhoeverAsked() {
        var account = RequestAccount(limit: 3)
        #expect(account.answered() == nil, "nobody asked")
        let asked = [true, false, false, true, true, false, true]
        for (index, isOurs) in asked.enumerated() {
            #expect(account.sent(isOurs: isOurs) == true)
            if index > 0 { #expect(account.answered() == asked[index - 1]) }
        }
        #expect(account.answered() == true)
        #expect(account.answered() == nil)
    }

    @Test func whoeverDoesNotAnswerIsAskedNoMore() {
        var account = RequestAccount(limit: 2)
        #expect(account.sent(isOurs: false) == true)
        #expect(account.sent(isOurs: false) == true)
        #expect(account.sent(isOurs: true) == false)
        #expect(account.answered() == false)
        #expect(account.sent(isOurs: true) == true)
    }

    @Test func oneQuestionIsOpenAtATime() {
        var inquiry = Inquiry()
        for _ in 0..<2 {
            #expect(inquiry.begin() == true)
            #expect(inquiry.begin() == false)
            #expect(inquiry.begin() == false)
            #expect(inquiry.end() == true, "asked for meanwhile, if often once")
            #expect(inquiry.end() == false)
        }
    }

    @Test func channelsAreCountedFromBothSides() {
        var account = ChannelAccount(limit: 2)
        #expect(account.open() == true)
        #expect(account.open() == true)
        #expect(account.open() == false, "the limit")
        account.closed()
        #expect(account.open() == false, "closed by one side only")
        account.closed()
        #expect(account.open() == true)
        account.failed()
        #expect(account.count == 1)
        for _ in 0..<9 { account.closed() }
        #expect(account.count == 0, "never below")
    }

    @Test func aSilentSideIsAskedAndThenTakenForDead() {
        var limits = GatewayLimits()
        (limits.keepAliveInterval, limits.silenceLimit) = (.seconds(10), .seconds(35))
        let start = ContinuousClock.now
        var pulse = Pulse(limits, now: start)
        #expect(pulse.look(now: start + .seconds(9)) == .nothing)
        #expect(pulse.deadline == start + .seconds(10))
        #expect(pulse.look(now: start + .seconds(10)) == .ask)
        #expect(pulse.look(now: start + .seconds(11)) == .nothing, "asked a moment ago")
        #expect(pulse.look(now: start + .seconds(20)) == .ask)
        pulse.note(1, now: start + .seconds(21))
        #expect(pulse.look(now: start + .seconds(30)) == .nothing)
        #expect(pulse.look(now: start + .seconds(31)) == .ask)
        pulse.note(1, now: start + .seconds(50))
        #expect(pulse.deadline == start + .seconds(41))
        #expect(pulse.look(now: start + .seconds(56)) == .dead, "nothing came since 21")
    }

    @Test(arguments: [
        ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"), ("2001:db8:1:3::9", "2001:db8:1:3::/64"), ("::1", "::/64"),
        ("unknown", "unknown"),
    ])
    func connectionsAreCountedByPlace(address: String, place: String) throws {
        #expect(Place(of: address).description == place)
    }

    @Test func packetsAreReadAsTheyAreWritten() {
        var packet = PacketWriter(PacketType.globalRequest)
        packet.add("tcpip-forward")
        packet.add(true)
        packet.add(7)
        packet.bytes.withUnsafeBytes { bytes in
            var reader = PacketReader(bytes)
            #expect(reader.skipString() == true)
            #expect(reader.boolean() == true)
            #expect(reader.number() == 7)
            #expect(reader.number() == nil, "beyond the end")
            #expect(reader.boolean() == nil)
            #expect(reader.skipString() == false)
        }
        for length in 0..<4 {
            Array(repeating: UInt8(255), count: length).withUnsafeBytes { bytes in
                var reader = PacketReader(bytes)
                #expect(reader.skipString() == false)
            }
        }
        ([0, 0, 0, 5, 1, 2, 3, 4] as [UInt8]).withUnsafeBytes { bytes in
            var reader = PacketReader(bytes)
            #expect(reader.skipString() == false, "longer than the packet")
        }
    }

    @Test func eachStateSaysWhatToDo() {
        let sandbox = SandboxID.random()
        for state in PublicState.allCases {
            let reason = Farewell.reason(sandbox, is: state)
            #expect((reason == nil) == (state == .started), "\(state)")
            if let reason {
                #expect(
                    reason.contains("\(sandbox)") && reason.utf8.count < 400,
                    "OpenSSH cuts what is longer: \(reason)"
                )
            }
            let end = Farewell.reasonToEnd(sandbox, is: state)
            #expect((end == nil) == (state == .started || state == .unknown), "\(state)")
        }
    }

    @Test func aDaemonsAnswerIsJudged() {
        func outcome(_ status: String, _ body: String) -> KeyRequest.Outcome {
            KeyRequest.outcome(Array("HTTP/1.1 \(status)\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)".utf8))
        }
        let good = outcome("200 OK", #"{"port":22,"hostKey":"ssh-ed25519 AAAA","connections":0,"keys":[]}"#)
        #expect(good == .done(SandboxServer(port: 22, hostKey: "ssh-ed25519 AAAA")))
        for (status, body) in [
            ("200 OK", "{}"), ("200 OK", #"{"port":0,"hostKey":"x"}"#), ("200 OK", #"{"port":70000,"hostKey":"x"}"#),
            ("200 OK", "nonsense"), ("404 Not Found", ""), ("204 No Content", ""),
        ] {
            guard case .failed = outcome(status, body) else {
                Issue.record("\(status) \(body)")
                continue
            }
        }
        #expect(outcome("503 No", #"{"message":"no room"}"#) == .failed("the sandbox's daemon says: no room"))
        for answer in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n"] {
            guard case .failed = KeyRequest.outcome(Array(answer.utf8)) else {
                Issue.record("\(answer)")
                continue
            }
        }
    }
}
