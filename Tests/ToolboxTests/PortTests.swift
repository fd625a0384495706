import FoundationEssentials
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("Ports", .serialized, .timeLimit(.minutes(5)))
    struct PortRouteTests {
        private struct Line: Decodable {
            var opened: [Int]
            var closed: [Int]
        }

        /// Collects what a follower is told.
        private final class Follower: Sendable {
            private let text = Mutex("")

            /// Follows until cancelled, or the daemon ends it.
            func follow(_ daemon: TestDaemon) -> Task<TestClient.Answer, any Error> {
                Task {
                    try await daemon.client.call(
                        .GET,
                        "/port?follow=true",
                        bodyLength: 0,
                        pieces: [],
                        onPiece: { [self] piece in text.withLock { $0 += String(buffer: piece) } }
                    )
                }
            }

            var lines: [Line] {
                text.withLock { $0 }.split(separator: "\n").compactMap {
                    try? JSONDecoder().decode(Line.self, from: Data($0.utf8))
                }
            }
        }

        private func listen(_ host: String = "127.0.0.1") async throws -> (any Channel, Int) {
            let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .bind(host: host, port: 0).get()
            return (channel, try #require(channel.localAddress?.port))
        }

        @Test("Who follows is told what listens, then what comes and goes, until it leaves")
        func follow() async throws {
            try await TestDaemon.run { daemon async throws in
                let (first, firstPort) = try await listen()
                let follower = Follower()
                let call = follower.follow(daemon)
                #expect(try await eventually { follower.lines.first?.opened.contains(firstPort) == true })
                let (second, secondPort) = try await listen("0.0.0.0")
                #expect(
                    try await eventually(.seconds(60)) { follower.lines.contains { $0.opened.contains(secondPort) } }
                )
                try await first.close()
                #expect(
                    try await eventually(.seconds(60)) { follower.lines.contains { $0.closed.contains(firstPort) } }
                )
                try await second.close()
                #expect(
                    try await eventually(.seconds(60)) { follower.lines.contains { $0.closed.contains(secondPort) } }
                )
                // The daemon stops within its time although somebody follows.
                call.cancel()
            }
        }

        @Test("A follower does not hold up the stop of the sandbox, and its answer ends well")
        func stop() async throws {
            let follower = Follower()
            let call = Mutex<Task<TestClient.Answer, any Error>?>(nil)
            let began = ContinuousClock.now
            try await TestDaemon.run { daemon async throws in
                let task = follower.follow(daemon)
                call.withLock { $0 = task }
                #expect(try await eventually { !follower.lines.isEmpty })
            }
            #expect(ContinuousClock.now - began < .seconds(60))
            let answer = try await #require(call.withLock { $0 }).value
            #expect(answer.status == 200 && answer.headers["Content-Type"] == ["application/x-ndjson"])
        }

        @Test("The daemon's own ports are not the user's: its server, the web terminal, SSH")
        func ownPorts() async throws {
            struct Ports: Decodable { var ports: [Int] }
            struct SSH: Decodable { var port: Int }
            let blob: [UInt8] =
                [0, 0, 0, 11] + Array("ssh-ed25519".utf8) + [0, 0, 0, 32] + Array(repeating: 7, count: 32)
            let keys = "{\"keys\":[\"ssh-ed25519 \(Data(blob).base64EncodedString())\"]}"
            try await TestDaemon.run(servesPage: true) { daemon async throws in
                let ssh = try await daemon.client.call(.POST, "/ssh/authorized-keys", body: keys)
                let own = [
                    daemon.client.port, try #require(daemon.page).port,
                    try JSONDecoder().decode(SSH.self, from: Data(ssh.text.utf8)).port,
                ]
                let (control, port) = try await listen()
                let listed = try await daemon.client.call(.GET, "/port").text
                let ports = try JSONDecoder().decode(Ports.self, from: Data(listed.utf8)).ports
                #expect(Set(own).count == 3 && ports.contains(port))
                #expect(own.allSatisfy { !ports.contains($0) }, "\(own) in \(ports)")
                for port in own {
                    #expect(try await daemon.client.call(.GET, "/port/\(port)/in-use").text == #"{"isInUse":true}"#)
                }
                try await control.close()
            }
        }

        @Test("There is a limit to followers; one that left makes room")
        func limit() async throws {
            try await TestDaemon.run { daemon async throws in
                let followers = (0..<PortFollowLimit.followers).map { _ in Follower() }
                let calls = followers.map { follower in
                    follower.follow(daemon)
                }
                #expect(try await eventually(.seconds(60)) { followers.allSatisfy { !$0.lines.isEmpty } })
                #expect(try await daemon.client.call(.GET, "/port?follow=true").status == 429)
                #expect(try await daemon.client.call(.GET, "/port").status == 200)
                for call in calls { call.cancel() }
                for call in calls { _ = await call.result }
                try await daemon.client.callAndHangUp(.GET, "/port?follow=true", body: "", after: .milliseconds(100))
                let last = Follower()
                let call = Mutex<Task<TestClient.Answer, any Error>?>(nil)
                #expect(
                    try await eventually(.seconds(60)) {
                        if last.lines.isEmpty {
                            let task = last.follow(daemon)
                            call.withLock {
                                $0?.cancel(); $0 = task
                            }
                            try await Task.sleep(for: .milliseconds(300))
                        }
                        return !last.lines.isEmpty
                    }
                )
                call.withLock { $0?.cancel() }
            }
        }

        @Test("Ports that are none are refused; follow is a flag", arguments: ["0", "65536", "080", "+80", "x", "-1"])
        func badPorts(port: String) async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await daemon.client.call(.GET, "/port/\(port)/in-use").status == 400)
                #expect(try await daemon.client.call(.GET, "/port?follow=perhaps").status == 400)
                #expect(try await daemon.client.call(.GET, "/port?follow=false").text.hasPrefix(#"{"ports":["#))
            }
        }
    }
}

@Suite("Port changes")
struct PortChangeTests {
    @Test("Changes lead from one look to the next")
    func changes() {
        var random = SeededGenerator()
        for _ in 0..<200 {
            let looks = (0..<2).map { _ in Set((0..<6).map { _ in Int.random(in: 1...9, using: &random) }) }
            let change = PortChange(from: looks[0], to: looks[1])
            #expect(looks[0].union(change.opened).subtracting(change.closed) == looks[1], "seed \(random.seed)")
            #expect(Set(change.opened).isDisjoint(with: looks[0]) && Set(change.closed).isSubset(of: looks[0]))
            #expect(change.isEmpty == (looks[0] == looks[1]))
        }
    }
}
