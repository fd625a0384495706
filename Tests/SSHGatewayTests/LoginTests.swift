import Domain
import Glibc
import Postgres
import SSHServing
import Store
import TestSupport
import Testing

@testable import SSHGateway

/// Who is let in, by OpenSSH's client against a real database. What happens in the sandbox is shown in Tests/Conformance.
@Suite struct LoginTests {
    /// A token that never was, one that has expired, one that was revoked and what is no token: all get the same answer.
    @Test func whatIsNoValidTokenIsRefusedAlike() async throws {
        try await TestGateway.with { gateway in
            let sandbox = try await gateway.database.makeSandbox(of: gateway.tenant).id
            let expired = try await gateway.grant(sandbox)
            try await gateway.database.owner.execute("UPDATE ssh_access SET expires_at = now()")
            let other = try await gateway.database.makeSandbox(of: gateway.tenant).id
            let revoked = try await gateway.grant(other)
            _ = try await gateway.grant(other)
            var answers: Set<String> = []
            for user in [SSHToken.random().text, expired.text, revoked.text, "root", "x"] {
                let begun = ContinuousClock.now
                let done = try await gateway.ssh(user)
                #expect(done.code == 255 && ContinuousClock.now - begun >= .milliseconds(500), "\(done)")
                answers.insert(done.errors.replacing(user, with: "USER"))
            }
            #expect(answers == ["USER@127.0.0.1: Permission denied (publickey).\r\n"], "\(answers)")
        }
    }

    @Test func aSandboxThatDoesNotRunSaysSo() async throws {
        try await TestGateway.with { gateway in
            try await gateway.database.withRunner { runner in
                let sandbox = try await gateway.database.makeSandbox(of: gateway.tenant).id
                let token = try await gateway.grant(sandbox)
                #expect(try await gateway.ssh(token.text).errors.contains("sandbox \(sandbox) is creating; wait"))
                try await runner.report(sandbox, .stopped)
                try await gateway.database.owner.execute("UPDATE sandbox SET desired_state = 'stopped'")
                try await runner.reconcileOnce()
                let stopped = try await gateway.ssh(token.text)
                #expect(stopped.code == 255 && stopped.errors.contains("is stopped; start it"), "\(stopped)")
                try await gateway.database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed'")
                #expect(try await gateway.ssh(token.text).errors.contains("was deleted"))
            }
            try await poll { gateway.service.openConnections == 0 }
        }
    }

    /// The runner of these tests has no ingress.
    @Test func aRunnerThatCannotBeReachedIsNamed() async throws {
        try await TestGateway.with { gateway in
            try await gateway.database.withRunner { runner in
                let sandbox = try await gateway.database.makeSandbox(of: gateway.tenant).id
                try await runner.report(sandbox, .started)
                let done = try await gateway.ssh(try await gateway.grant(sandbox).text)
                #expect(done.code == 255 && done.errors.contains("runner cannot be reached"), "\(done)")
            }
        }
    }

    @Test func whoeverGuessesIsSentAway() async throws {
        try await TestGateway.with({ $0.refusalsPerAddressLimit = 2 }) { gateway in
            var errors: [String] = []
            for _ in 0..<4 { errors.append(try await gateway.ssh(SSHToken.random().text).errors) }
            #expect(errors[0].contains("Permission denied") && errors[1].contains("Permission denied"), "\(errors)")
            #expect(errors[2].contains("too many tokens") && errors[3].contains("too many tokens"), "\(errors)")
            let sandbox = try await gateway.database.makeSandbox(of: gateway.tenant).id
            let valid = try await gateway.ssh(try await gateway.grant(sandbox).text)
            #expect(valid.errors.contains("is creating"), "a valid token is good all the same: \(valid)")
        }
    }

    @Test func connectionsOfAnAddressAreLimited() async throws {
        try await TestGateway.with({ $0.connectionsPerAddressLimit = 2 }) { gateway in
            let held = try [Wire(gateway.service.port), Wire(gateway.service.port)]
            for wire in held { #expect(try wire.readSome().hasPrefix("SSH-2.0-")) }
            #expect(try Wire(gateway.service.port).readSome() == "", "closed at once")
            held[0].close()
            try await poll { gateway.service.openConnections == 1 }
            let next = try Wire(gateway.service.port)
            #expect(try next.readSome().hasPrefix("SSH-2.0-"))
            held[1].close()
            next.close()
        }
    }

    @Test func whoeverSaysNothingIsClosed() async throws {
        try await TestGateway.with({ $0.loginDeadline = .seconds(2) }) { gateway in
            let wires = try [Wire(gateway.service.port), Wire(gateway.service.port)]
            for wire in wires { #expect(try wire.readSome().hasPrefix("SSH-2.0-")) }
            wires[1].send("SSH-2.0-x\r\n" + String(repeating: "\u{1}", count: 100_000))
            try await poll { gateway.service.openConnections == 0 }
            for wire in wires {
                #expect(wire.isEnded())
                wire.close()
            }
        }
    }
}

/// A plain connection to the gateway. Reading blocks, for a minute at most.
private struct Wire {
    private let descriptor: CInt

    init(_ port: Int) throws {
        descriptor = try #require(PeerAddress.loopback(port: UInt16(port)).connectingSocket())
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    func readSome() throws -> String {
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }

    /// Whether the other end has closed, behind all that it sent.
    func isEnded() -> Bool {
        var bytes = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &bytes, bytes.count, 0)
            if count <= 0 { return count == 0 || errno == ECONNRESET }
        }
    }

    func send(_ text: String) {
        _ = text.utf8CString.withUnsafeBytes {
            Glibc.send(descriptor, $0.baseAddress, $0.count - 1, CInt(MSG_NOSIGNAL))
        }
    }

    func close() { Glibc.close(descriptor) }
}
