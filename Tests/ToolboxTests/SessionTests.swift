import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import Synchronization
import Testing

@testable import Toolbox

private struct ExecAnswer: Decodable {
    var cmdId: String
    var output: String?
    var stdout: String?
    var stderr: String?
    var exitCode: Int?
}

private struct LogsAnswer: Decodable, Equatable {
    var output: String
    var stdout: String
    var stderr: String
}

private struct SessionAnswer: Decodable {
    struct Command: Decodable {
        var id: String
        var command: String
        var exitCode: Int?
    }
    var sessionId: String
    var commands: [Command]
}

extension TestDaemon {
    fileprivate func create(_ id: String) async throws {
        #expect(try await client.call(.POST, "/process/session", body: #"{"sessionId":"\#(id)"}"#).status == 201)
    }

    fileprivate func exec(_ command: String, in id: String = "s", _ flags: String = "") async throws -> ExecAnswer {
        let text = String(decoding: try JSONEncoder().encode(command), as: UTF8.self)
        let answer = try await client.call(.POST, "/process/session/\(id)/exec", body: "{\"command\":\(text)\(flags)}")
        #expect(answer.status == (flags.contains("sync\":true") ? 202 : 200), "\(answer.text)")
        return try JSONDecoder().decode(ExecAnswer.self, from: Data(answer.body.readableBytesView))
    }

    fileprivate func start(_ command: String, in id: String = "s", _ flags: String = "") async throws -> String {
        try await exec(command, in: id, ",\"runAsync\":true\(flags)").cmdId
    }

    fileprivate func logs(_ command: String, in id: String = "s") async throws -> LogsAnswer {
        let answer = try await client.call(.GET, "/process/session/\(id)/command/\(command)/logs")
        return try JSONDecoder().decode(LogsAnswer.self, from: Data(answer.body.readableBytesView))
    }

    fileprivate func session(_ id: String = "s") async throws -> SessionAnswer {
        let answer = try await client.call(.GET, "/process/session/\(id)")
        return try JSONDecoder().decode(SessionAnswer.self, from: Data(answer.body.readableBytesView))
    }

    fileprivate func exitCode(of command: String, in id: String = "s") async throws -> Int? {
        let answer = try await client.call(.GET, "/process/session/\(id)/command/\(command)")
        return try JSONDecoder().decode(SessionAnswer.Command.self, from: Data(answer.body.readableBytesView)).exitCode
    }

    fileprivate func input(_ data: String, to command: String, in id: String = "s") async throws -> Int {
        let text = String(decoding: try JSONEncoder().encode(data), as: UTF8.self)
        let path = "/process/session/\(id)/command/\(command)/input"
        return try await client.call(.POST, path, body: "{\"data\":\(text)}").status
    }

    fileprivate func delete(_ id: String = "s") async throws {
        #expect(try await client.call(.DELETE, "/process/session/\(id)").status == 204)
    }
}

extension DaemonSuites {
    @Suite("Sessions", .serialized, .timeLimit(.minutes(5)))
    struct SessionTests {
        @Test("Create, list, get, delete, and what is refused")
        func lifeAndRefusals() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await daemon.client.call(.GET, "/process/session").text == "[]")
                try await daemon.create("s")
                try await daemon.create("a/b é")
                for (body, status) in [
                    (#"{"sessionId":"s"}"#, 409), (#"{"sessionId":"entrypoint"}"#, 400), (#"{"sessionId":""}"#, 400),
                    (#"{"sessionId":".."}"#, 400), (#"{"sessionId":"a\nb"}"#, 400), ("{}", 400), ("[", 400),
                    (#"{"sessionId":"\#(String(repeating: "x", count: 257))"}"#, 400),
                ] {
                    let answer = try await daemon.client.call(.POST, "/process/session", body: body)
                    #expect(answer.status == status, "\(body)")
                }
                for (method, path) in [
                    (HTTPMethod.GET, "/process/session/no"), (.DELETE, "/process/session/no"),
                    (.POST, "/process/session/no/exec"), (.GET, "/process/session/s/command/no"),
                    (.GET, "/process/session/s/command/no/logs"), (.DELETE, "/process/session/"),
                ] {
                    let answer = try await daemon.client.call(
                        method,
                        path,
                        body: method == .POST ? #"{"command":"x"}"# : ""
                    )
                    #expect(answer.status == (path.hasSuffix("/") ? 400 : 404), "\(path)")
                }
                for body in [#"{"command":" "}"#, "{}", #"{"command":"a\u0000"}"#, #"{"command":7}"#] {
                    #expect(try await daemon.client.call(.POST, "/process/session/s/exec", body: body).status == 400)
                }
                #expect(try await daemon.session().commands.isEmpty)
                let all = try await daemon.client.call(.GET, "/process/session")
                let names = try JSONDecoder().decode([SessionAnswer].self, from: Data(all.body.readableBytesView))
                #expect(names.map(\.sessionId) == ["s", "a/b é"])
                try await daemon.delete("a%2Fb%20%C3%A9")
                try await daemon.delete()
                try await daemon.create("s")
            }
        }

        @Test("Sync and async commands run one after the other in one shell")
        func order() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let first = try await daemon.start("sleep 0.3; X=1; echo one")
                #expect(try await daemon.exitCode(of: first) == nil)
                let second = try await daemon.exec("echo $X; echo two >&2; false", in: "s", #","async":false"#)
                #expect(second.exitCode == 1 && second.stdout == "1\n" && second.stderr == "two\n")
                #expect(second.output == "1\ntwo\n")
                #expect(try await daemon.exitCode(of: first) == 0)
                #expect(try await daemon.logs(first) == LogsAnswer(output: "one\n", stdout: "one\n", stderr: ""))
                let third = try await daemon.exec("exit 9", in: "s", #","async":true"#)
                #expect(try await eventually { try await daemon.exitCode(of: third.cmdId) == 9 })
                let commands = try await daemon.session().commands
                #expect(commands.map(\.exitCode) == [0, 1, 9])
                #expect(commands.map(\.command)[2] == "exit 9")
                let late = try await daemon.client.call(
                    .POST,
                    "/process/session/s/exec",
                    body: #"{"command":"true"}"#
                )
                #expect(late.status == 410 && late.text.contains("SESSION_ENDED"))
                #expect(try await daemon.input("x", to: third.cmdId) == 410)
                #expect(try await daemon.logs(first).stdout == "one\n")
            }
        }

        @Test("Input reaches an async command, also before it runs, is echoed unless suppressed, and ends with it")
        func input() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let first = try await daemon.start("read a; read b; echo got $a $b")
                let quiet = try await daemon.start("read c; echo $c!", in: "s", #","suppressInputEcho":true"#)
                #expect(try await daemon.input("early", to: quiet) == 204)
                #expect(try await daemon.input("one", to: first) == 204)
                #expect(try await daemon.input("two\n", to: first) == 204)
                #expect(try await eventually { try await daemon.exitCode(of: quiet) == 0 })
                #expect(try await daemon.logs(first).stdout == "one\ntwo\ngot one two\n")
                #expect(try await daemon.logs(quiet).stdout == "early!\n")
                #expect(try await daemon.input("x", to: first) == 410)
                let deaf = try await daemon.start("sleep 30")
                let large = String(repeating: "x", count: 700_000)
                #expect(try await daemon.input(large, to: deaf) == 204)
                #expect(try await daemon.input(large, to: deaf) == 429)
                #expect(try await daemon.input(large + large, to: deaf) == 400)
                try await daemon.delete()
            }
        }

        @Test("A client that hangs up breaks nothing: the command goes on, and its log is there")
        func hangUp() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                try await daemon.client.callAndHangUp(
                    .POST,
                    "/process/session/s/exec",
                    body: #"{"command":"Y=5; sleep 3; echo done"}"#,
                    after: .seconds(1)
                )
                #expect(try await daemon.exec("echo $Y").stdout == "5\n")
                let first = try await daemon.session().commands[0]
                #expect(first.exitCode == 0)
                #expect(try await daemon.logs(first.id).output == "done\n")
            }
        }

        @Test("Delete ends everything that was started in the session, and leaves no process, descriptor or file")
        func deleteEndsAll() async throws {
            try await TestDaemon.run { daemon async throws in
                _ = try await daemon.execute("true")
                try await Task.sleep(for: .milliseconds(50))
                let before = openDescriptors()
                let mark = "8\(UInt32.random(in: 100_000...999_999))"
                for id in ["a", "b", "c"] { try await daemon.create(id) }
                _ = try await daemon.exec("nohup sleep \(mark) >/dev/null 2>&1 & setsid sleep \(mark) & echo", in: "a")
                _ = try await daemon.exec(
                    "(trap '' TERM HUP; setsid sh -c 'trap \"\" TERM; sleep \(mark); sleep \(mark)' &)",
                    in: "b"
                )
                _ = try await daemon.start("head -c 3000000 /dev/zero | tr '\\0' x; sleep \(mark)", in: "c")
                #expect(try await eventually(.seconds(60)) { processes(holding: mark).count >= 4 })
                async let waiting = daemon.client.call(
                    .POST,
                    "/process/session/c/exec",
                    body: #"{"command":"echo never"}"#
                )
                #expect(try await eventually { try await daemon.session("c").commands.count == 2 })
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for id in ["a", "b", "c"] { tasks.addTask { try await daemon.delete(id) } }
                    try await tasks.waitForAll()
                }
                #expect(try await waiting.status == 410)
                #expect(processes(holding: mark) == [])
                #expect(daemon.daemon.processCount == 0)
                #expect(
                    try await eventually { openDescriptors() <= before + 1 },
                    "\(before) before, \(openDescriptors()) now"
                )
                #expect(try await daemon.client.call(.GET, "/process/session").text == "[]")
            }
        }

        @Test("200 sessions at once, each with a state of its own")
        func manySessions() async throws {
            try await TestDaemon.run { daemon async throws in
                let began = ContinuousClock.now
                try await withThrowingTaskGroup(of: Bool.self) { tasks in
                    for number in 0..<200 {
                        tasks.addTask {
                            try await daemon.create("n\(number)")
                            _ = try await daemon.exec("N=\(number)", in: "n\(number)")
                            return try await daemon.exec("echo $N", in: "n\(number)").stdout == "\(number)\n"
                        }
                    }
                    for try await right in tasks { #expect(right) }
                }
                #expect(daemon.daemon.processCount == 200)
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for number in 0..<200 { tasks.addTask { try await daemon.delete("n\(number)") } }
                    try await tasks.waitForAll()
                }
                #expect(daemon.daemon.processCount == 0)
                print("200 sessions took \(ContinuousClock.now - began)")
            }
        }

        @Test("100 MB of output are kept and sent in little memory")
        func largeLog() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let received = Mutex(0)
                let growth = try await peakMemoryGrowth {
                    let command = try await daemon.start("head -c 100000000 /dev/zero | tr '\\0' x; echo end >&2")
                    #expect(try await eventually(.seconds(60)) { try await daemon.exitCode(of: command) == 0 })
                    let answer = try await daemon.client.call(
                        .GET,
                        "/process/session/s/command/\(command)/logs",
                        bodyLength: 0,
                        pieces: [],
                        onPiece: { piece in received.withLock { $0 += piece.readableBytes } }
                    )
                    #expect(answer.status == 200)
                }
                let frame = #"{"output":"","stdout":"","stderr":""}"#.utf8.count
                #expect(received.withLock { $0 } == frame + 200_000_000 + 2 * 5)
                #expect(growth < 24 << 10, "grew by \(growth) KiB")
                try await daemon.delete()
            }
        }

        @Test("Split characters, bytes that are no text, and both streams in one answer")
        func text() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let answer = try await daemon.exec(
                    #"printf '\303'; sleep 0.2; printf x >&2; sleep 0.2; printf '\251\377\001\001\001'"#
                )
                #expect(answer.stdout == "é\u{FFFD}\u{1}\u{1}\u{1}")
                #expect(answer.stderr == "x")
                #expect(answer.output == "xé\u{FFFD}\u{1}\u{1}\u{1}")
            }
        }

        @Test("Of many commands the oldest are forgotten")
        func forgotten() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let first = try await daemon.exec("echo first").cmdId
                for _ in 0..<SessionLimit.commands { _ = try await daemon.exec(":") }
                #expect(try await daemon.session().commands.count == SessionLimit.commands)
                #expect(try await daemon.client.call(.GET, "/process/session/s/command/\(first)").status == 404)
                _ = try await daemon.start("sleep 30")
                for _ in 0..<SessionLimit.queue { _ = try await daemon.start(":") }
                let body = #"{"command":"true"}"#
                #expect(try await daemon.client.call(.POST, "/process/session/s/exec", body: body).status == 429)
                try await daemon.delete()
            }
        }
    }
}

/// What the SDK's reader makes of a followed log.
private struct Followed {
    var stdout = ""
    var stderr = ""
    var beginsWithMarker = false
    var close: UInt16?
}

extension TestSocket {
    fileprivate func follow(_ onMessage: (String) async throws -> Void = { _ in }) async throws -> Followed {
        var wire: [UInt8] = []
        var close: UInt16?
        while let frame = try await next() {
            if frame.opcode == 8 {
                close = frame.code
                break
            }
            wire += frame.content.readableBytesView
            try await onMessage(String(decoding: wire, as: UTF8.self))
        }
        var followed = Followed(close: close)
        followed.beginsWithMarker = wire.starts(with: [1, 1, 1]) || wire.starts(with: [2, 2, 2])
        var streams: [UInt8: [UInt8]] = [:]
        var (current, rest): (UInt8, ArraySlice<UInt8>) = (0, wire[...])
        while let first = rest.first {
            if first == 1 || first == 2, rest.prefix(3).elementsEqual([first, first, first]) {
                (current, rest) = (first, rest.dropFirst(3))
            } else {
                streams[current, default: []].append(first)
                rest = rest.dropFirst()
            }
        }
        followed.stdout = String(decoding: streams[1] ?? [], as: UTF8.self)
        followed.stderr = String(decoding: streams[2] ?? [], as: UTF8.self)
        return followed
    }
}

extension DaemonSuites {
    @Suite("Following logs", .serialized, .timeLimit(.minutes(5)))
    struct FollowTests {
        private func path(_ command: String) -> String { "/process/session/s/command/\(command)/logs?follow=true" }

        @Test(
            "Replay, then what comes, and the close after the end; also when it has ended before, and when there is nothing"
        )
        func follow() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let command = try await daemon.start("echo one; echo two >&2; read x; echo three; exit 3")
                #expect(try await eventually { try await daemon.logs(command).stderr == "two\n" })
                try await TestSocket.open(port: daemon.client.port, path(command)) { socket async throws in
                    #expect(socket.status == 101)
                    var sent = false
                    let followed = try await socket.follow { soFar async throws in
                        if !sent, soFar.contains("two") {
                            sent = true
                            #expect(try await daemon.input("go", to: command) == 204)
                        }
                    }
                    #expect(followed.beginsWithMarker && followed.close == 1000)
                    #expect(followed.stdout == "one\ngo\nthree\n" && followed.stderr == "two\n")
                    #expect(try await daemon.exitCode(of: command) == 3)
                }
                for _ in 0..<2 {
                    try await TestSocket.open(port: daemon.client.port, path(command)) { socket async throws in
                        let again = try await socket.follow()
                        #expect(again.stdout == "one\ngo\nthree\n" && again.stderr == "two\n" && again.close == 1000)
                    }
                }
                let plain = try await daemon.client.call(.GET, path(command))
                #expect(plain.status == 200 && plain.text.contains(#""stderr":"two\n""#))
                try await TestSocket.open(port: daemon.client.port, path("no")) { #expect($0.status == 404) }
            }
        }

        @Test("A silent command: the marker comes at once, the close with the end, though a job holds the output")
        func silence() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let command = try await daemon.start("sleep 60 & read x")
                try await TestSocket.open(port: daemon.client.port, path(command)) { socket async throws in
                    #expect(try await socket.next()?.content == ByteBuffer(bytes: [1, 1, 1]))
                    #expect(try await daemon.input("", to: command) == 204)
                    let rest = try await socket.follow()
                    #expect(rest.close == 1000)
                }
                try await daemon.delete()
            }
        }

        @Test("Several followers, one of which reads nothing and one of which goes away")
        func several() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let command = try await daemon.start(
                    "read x; i=0; while [ $i -lt 20000 ]; do echo \"$i ............................................\"; i=$((i+1)); done"
                )
                try await TestSocket.open(port: daemon.client.port, path(command)) { slow async throws in
                    try await slow.setReading(false)
                    try await TestSocket.open(port: daemon.client.port, path(command)) { #expect($0.status == 101) }
                    try await TestSocket.open(port: daemon.client.port, path(command)) { quick async throws in
                        #expect(try await daemon.input("", to: command) == 204)
                        let followed = try await quick.follow()
                        #expect(followed.close == 1000)
                        #expect(followed.stdout.split(separator: "\n").count == 20000)
                    }
                    try await slow.setReading(true)
                    let followed = try await slow.follow()
                    #expect(followed.stdout.split(separator: "\n").count == 20000 && followed.close == 1000)
                }
            }
        }

        @Test("Deleting the session ends the followers")
        func deleted() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.create("s")
                let command = try await daemon.start("echo begun; sleep 60")
                try await TestSocket.open(port: daemon.client.port, path(command)) { socket async throws in
                    async let gone: Void = daemon.delete()
                    let followed = try await socket.follow()
                    #expect(followed.close == 1000)
                    try await gone
                }
            }
        }

        @Test("The entrypoint's log: both streams, replay and follow")
        func entrypoint() async throws {
            let program = ["sh", "-c", "echo begun; echo oops >&2; while ! test -e go; do sleep 0.05; done; echo end"]
            try await TestDaemon.run(entrypoint: program) { daemon async throws in
                let path = "/process/session/entrypoint/logs?follow=true"
                try await TestSocket.open(port: daemon.client.port, path) { socket async throws in
                    var made = false
                    let followed = try await socket.follow { soFar async throws in
                        guard !made, soFar.contains("begun"), soFar.contains("oops") else { return }
                        made = true
                        try daemon.write("", to: "go")
                    }
                    #expect(followed.stdout == "begun\nend\n" && followed.stderr == "oops\n" && followed.close == 1000)
                }
                let plain = try await daemon.client.call(.GET, path)
                #expect(plain.text.contains(#""stdout":"begun\nend\n","stderr":"oops\n""#))
            }
        }
    }
}
