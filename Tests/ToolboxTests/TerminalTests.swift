import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import Toolbox

let exitControl = "X-Daytona-Pty-Exit-Control"

/// One client of a terminal, as the SDK is one.
struct TerminalPeer {
    let socket: TestSocket
    private var bytes = ByteBuffer()
    /// Where what was not looked through yet begins.
    private var searched = 0
    var controls: [String] = []
    var close: TestSocket.Frame?

    init(_ socket: TestSocket) { self.socket = socket }

    var output: String { String(buffer: bytes) }

    /// Reads until the output holds a text; false if the terminal closed before.
    mutating func read(until text: String) async throws -> Bool {
        while true {
            let unseen = bytes.getSlice(at: searched, length: bytes.writerIndex - searched) ?? ByteBuffer()
            if String(buffer: unseen).contains(text) { return true }
            searched = max(searched, bytes.writerIndex - 200)
            guard close == nil, try await step() else { return false }
        }
    }

    /// Reads to the close frame.
    mutating func readToEnd() async throws {
        while close == nil, try await step() {}
    }

    mutating func type(_ text: String) async throws { try await socket.sendBinary(text) }

    private mutating func step() async throws -> Bool {
        guard let frame = try await socket.next() else { return false }
        switch frame.opcode {
        case 1: controls.append(frame.text)
        case 2: bytes.writeImmutableBuffer(frame.content)
        default: close = frame
        }
        return true
    }
}

extension TestDaemon {
    /// Creates a terminal as the SDK does, and runs `body` with its first client after `connected`.
    func terminal(
        _ id: String,
        query: String = "",
        protocols: String = exitControl,
        _ body: (inout TerminalPeer) async throws -> Void
    ) async throws {
        try await client(of: "/process/pty/create-connect?id=\(id)\(query)", protocols: protocols, body)
    }

    func client(
        of target: String,
        protocols: String = exitControl,
        _ body: (inout TerminalPeer) async throws -> Void
    ) async throws {
        let headers = protocols.isEmpty ? [] : [("Sec-WebSocket-Protocol", protocols)]
        try await TestSocket.open(port: client.port, target, headers: headers) { socket in
            try #require(socket.status == 101)
            #expect(socket.headers["sec-websocket-protocol"] == (protocols.isEmpty ? nil : exitControl))
            let first = try await socket.next()
            #expect(first == .init(opcode: 1, content: ByteBuffer(string: #"{"status":"connected","type":"control"}"#)))
            var peer = TerminalPeer(socket)
            try await body(&peer)
        }
    }

    fileprivate func terminals() async throws -> [TerminalDescription] {
        let answer = try await client.call(.GET, "/process/pty")
        return try JSONDecoder().decode(
            [String: [TerminalDescription]].self,
            from: Data(answer.body.readableBytesView)
        )[
            "sessions"
        ]!
    }
}

private struct TerminalDescription: Decodable {
    var id: String
    var cwd: String
    var envs: [String: String]
    var cols: Int
    var rows: Int
    var createdAt: String
    var active: Bool
    var lazyStart: Bool
}

extension DaemonSuites {
    @Suite("Terminals", .serialized, .timeLimit(.minutes(5)))
    struct TerminalTests {
        @Test("A login shell with its size, directory and variables; its end is told twice")
        func shell() async throws {
            try await TestDaemon.run { daemon async throws in
                try FileManager.default.createDirectory(atPath: daemon.path("sub"), withIntermediateDirectories: false)
                let envs = Data(#"{"GREETING":"h€llo w","TERM":"dumb"}"#.utf8).base64EncodedString()
                    .replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
                let protocols = "\(exitControl), X-Daytona-Pty-Envs~\(envs)"
                try await daemon.terminal("one", query: "&cols=91&rows=17&cwd=sub", protocols: protocols) { peer in
                    try await peer.type("stty size; pwd; echo \"<$GREETING|$TERM>\"; echo $0 $-; exit 7\n")
                    try await peer.readToEnd()
                    #expect(peer.output.contains("17 91\r\n") && peer.output.contains("\(daemon.directory)/sub\r\n"))
                    #expect(peer.output.contains("<h€llo w|dumb>\r\n"))
                    #expect(
                        peer.controls == [
                            #"{"exitCode":7,"exitReason":"non-zero exit","status":"exited","type":"control"}"#
                        ]
                    )
                    #expect(peer.close?.code == 1011)
                    #expect(peer.close?.reason == #"{"exitCode":7,"exitReason":"non-zero exit"}"#)
                }
                #expect(try await eventually { try await daemon.terminals().isEmpty })
            }
        }

        @Test(
            "Reasons of ends",
            arguments: [
                ("exit 0", 1000, #"{"exitCode":0}"#), ("exit 130", 1011, #"{"exitCode":130,"exitReason":"Ctrl+C"}"#),
                ("kill -9 $$", 1011, #"{"exitCode":137,"exitReason":"SIGKILL"}"#),
                ("exec sh -c 'kill -15 $$'", 1011, #"{"exitCode":143,"exitReason":"SIGTERM"}"#),
                ("exec sh -c 'kill -3 $$'", 1011, #"{"exitCode":131,"exitReason":"signal 3"}"#),
            ] as [(String, UInt16, String)]
        )
        func reasons(command: String, code: UInt16, reason: String) async throws {
            try await TestDaemon.run { daemon async throws in
                // Without the token no `exited` is sent.
                try await daemon.terminal("x", protocols: "") { peer in
                    try await peer.type("\(command)\n")
                    try await peer.readToEnd()
                    #expect(peer.controls.isEmpty && peer.close?.code == code && peer.close?.reason == reason)
                }
            }
        }

        @Test("Several clients share a terminal; who leaves does not end it; who comes later sees what was")
        func clients() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.terminal("shared") { first in
                    try await first.type("echo fir''st\n")
                    #expect(try await first.read(until: "first\r\n"))
                    try await daemon.client(of: "/process/pty/shared/connect") { second in
                        #expect(try await second.read(until: "first\r\n"))
                        try await second.type("echo sec''ond\n")
                        #expect(try await first.read(until: "second\r\n"))
                        #expect(try await second.read(until: "second\r\n"))
                    }
                }
                #expect(try await daemon.terminals().map(\.id) == ["shared"])
                try await daemon.client(of: "/process/pty/shared/connect") { third in
                    #expect(try await third.read(until: "second\r\n"))
                    try await third.socket.send("exit 3\n")
                    try await third.readToEnd()
                    #expect(third.close?.reason == #"{"exitCode":3,"exitReason":"non-zero exit"}"#)
                }
            }
        }

        @Test("Kill ends the whole tree, told as 137; then the terminal is gone and its id free")
        func kill() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.terminal("victim") { peer in
                    try await peer.type("setsid sleep 3217 & sleep 3218 & echo be''gun; sleep 3219\n")
                    #expect(try await peer.read(until: "begun"))
                    #expect(try await eventually { processes(holding: "sleep 321").count >= 3 })
                    let answer = try await daemon.client.call(.DELETE, "/process/pty/victim")
                    #expect(answer.status == 200 && answer.text.hasPrefix("{"))
                    try await peer.readToEnd()
                    #expect(peer.close?.reason == #"{"exitCode":137,"exitReason":"SIGKILL"}"#)
                }
                #expect(try await eventually { processes(holding: "sleep 321").isEmpty })
                #expect(try await daemon.client.call(.GET, "/process/pty/victim").status == 410)
                #expect(try await daemon.client.call(.DELETE, "/process/pty/victim").status == 410)
                try await daemon.terminal("victim") { try await $0.type("exit\n") }
            }
        }

        @Test("Ctrl+C reaches the program in front; a shell that leaves programs behind ends all the same")
        func interrupt() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.terminal("c") { peer in
                    try await peer.type("echo be''gun; sleep 3221; echo st''opped $?\n")
                    #expect(try await peer.read(until: "begun"))
                    #expect(try await eventually { !processes(holding: "sleep 3221").isEmpty })
                    try await peer.type("\u{3}")
                    try await peer.type("echo ne''xt\n")
                    #expect(try await peer.read(until: "next"))
                    try await peer.type("(nohup sleep 3222 &); sleep 0.1; exit 0\n")
                    try await peer.readToEnd()
                    #expect(peer.close?.code == 1000)
                    #expect(!processes(holding: "sleep 3222").isEmpty)
                }
            }
        }

        @Test("REST: create, list, get, resize, delete; lazily started ones wait for a client")
        func rest() async throws {
            try await TestDaemon.run { daemon async throws in
                let body = #"{"id":"a b","cols":100,"rows":30,"envs":{"V":"1"},"lazyStart":true}"#
                let made = try await daemon.client.call(.POST, "/process/pty", body: body)
                #expect(made.status == 201 && made.text == #"{"sessionId":"a b"}"#)
                let listed = try #require(try await daemon.terminals().first)
                #expect(listed.id == "a b" && listed.cols == 100 && listed.rows == 30 && listed.envs == ["V": "1"])
                #expect(
                    listed.cwd == daemon.directory && !listed.active && listed.lazyStart
                        && listed.createdAt.hasSuffix("Z")
                )
                #expect(daemon.daemon.processCount == 0)
                let sized = try await daemon.client.call(
                    .POST,
                    "/process/pty/a%20b/resize",
                    body: #"{"cols":101,"rows":31}"#
                )
                #expect(sized.status == 200 && sized.text.contains(#""cols":101"#))
                try await daemon.client(of: "/process/pty/a%20b/connect") { peer in
                    try await peer.type("stty size; echo \"v=$V\"\n")
                    #expect(try await peer.read(until: "31 101\r\n"))
                    #expect(try await peer.read(until: "v=1\r\n"))
                    #expect(try await daemon.client.call(.GET, "/process/pty/a%20b").text.contains(#""active":true"#))
                    let resize = #"{"cols":132,"rows":43}"#
                    #expect(
                        try await daemon.client.call(.POST, "/process/pty/a%20b/resize", body: resize).status == 200
                    )
                    try await peer.type("stty size\n")
                    #expect(try await peer.read(until: "43 132\r\n"))
                }
                let unnamed = try await daemon.client.call(.POST, "/process/pty", body: "{}")
                #expect(unnamed.status == 201)
                #expect(try await eventually { daemon.daemon.processCount == 2 })
                for each in try await daemon.terminals() {
                    let id = each.id.replacing(" ", with: "%20")
                    #expect(try await daemon.client.call(.DELETE, "/process/pty/\(id)").status == 200)
                }
                #expect(try await daemon.terminals().isEmpty)
                let late = try await daemon.client.call(
                    .POST,
                    "/process/pty/a%20b/resize",
                    body: #"{"cols":9,"rows":9}"#
                )
                #expect(late.status == 410)
                #expect(try await daemon.client.call(.GET, "/process/pty/never").status == 404)
            }
        }

        @Test("What is wrong is refused before the upgrade, by name, and leaves nothing behind")
        func refusals() async throws {
            try await TestDaemon.run { daemon async throws in
                func refusal(_ query: String, _ protocols: String = exitControl) async throws -> (Int, String) {
                    var result = (0, "")
                    try await TestSocket.open(
                        port: daemon.client.port,
                        "/process/pty/create-connect?\(query)",
                        headers: [("Sec-WebSocket-Protocol", protocols)]
                    ) { result = ($0.status, try await $0.rest()) }
                    return result
                }
                let long = String(repeating: "x", count: TerminalLimit.idBytes + 1)
                for (query, name) in [
                    ("", "'id'"), ("id=", "'id'"), ("id=\(long)", "128"), ("id=a%2Fb", "'/'"), ("id=a%0Ab", "control"),
                    ("id=..", "paths"), ("id=create-connect", "paths"), ("id=x&cols=0", "cols"),
                    ("id=x&cols=1001", "1000"),
                    ("id=x&rows=many", "rows"), ("id=x&cwd=/no/such", "/no/such"),
                    ("id=x&cwd=/etc/passwd", "no directory"),
                ] {
                    let (status, text) = try await refusal(query)
                    #expect(status == 400 && text.contains(name), "\(query): \(status) \(text)")
                }
                for token in ["e30x", "!!!", "WzFd", "eyJhIGIiOiIxIn0"] {
                    #expect(try await refusal("id=x", "X-Daytona-Pty-Envs~\(token)").0 == 400)
                }
                #expect(try await daemon.terminals().isEmpty && daemon.daemon.processCount == 0)
                _ = try await daemon.client.call(.POST, "/process/pty", body: #"{"id":"x","lazyStart":true}"#)
                #expect(try await refusal("id=x").0 == 409)
                for body in [
                    #"{"cols":0}"#, #"{"rows":1001}"#, #"{"cols":"80"}"#, #"{"envs":{"1":"x"}}"#, #"{"id":""}"#,
                ] {
                    #expect(try await daemon.client.call(.POST, "/process/pty", body: body).status == 400)
                }
                let resize = "/process/pty/x/resize"
                #expect(try await daemon.client.call(.POST, resize, body: #"{"cols":0,"rows":5}"#).status == 400)
                #expect(try await daemon.client.call(.POST, resize, body: #"{"cols":5}"#).status == 400)
                #expect(try await daemon.client.call(.GET, "/process/pty/x/connect").status == 426)
            }
        }

        @Test("Sessions at once are limited")
        func sessionLimit() async throws {
            try await TestDaemon.run { daemon async throws in
                try await withThrowingTaskGroup(of: Int.self) { tasks in
                    for number in 0..<TerminalLimit.sessions {
                        let body = #"{"id":"\#(number)","lazyStart":true}"#
                        tasks.addTask { try await daemon.client.call(.POST, "/process/pty", body: body).status }
                    }
                    for try await status in tasks { #expect(status == 201) }
                }
                let refused = try await daemon.client.call(.POST, "/process/pty", body: #"{"id":"one more"}"#)
                #expect(refused.status == 429 && refused.text.contains("256"))
                #expect(try await daemon.client.call(.DELETE, "/process/pty/5").status == 200)
                #expect(try await daemon.client.call(.POST, "/process/pty", body: #"{"lazyStart":true}"#).status == 201)
            }
        }

        @Test("Much output arrives whole, and a slow reader of it only slows the program")
        func muchOutput() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.terminal("much") { peer in
                    try await peer.type(
                        "stty -onlcr; echo sta''rt; head -c 8000000 /dev/zero | tr '\\0' x; echo; echo d''one; exit\n"
                    )
                    #expect(try await peer.read(until: "start"))
                    try await peer.socket.setReading(false)
                    try await Task.sleep(for: .milliseconds(500))
                    try await peer.socket.setReading(true)
                    try await peer.readToEnd()
                    #expect(peer.output.utf8.lazy.filter { $0 == UInt8(ascii: "x") }.count >= 8_000_000)
                    #expect(peer.output.contains("done") && !peer.output.contains("martlet:"))
                }
            }
        }

        @Test(
            "A client that reads nothing holds up neither the others nor the program for ever, and learns what it missed"
        )
        func slowClient() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.terminal("slow") { slow in
                    try await slow.socket.setReading(false)
                    try await daemon.client(of: "/process/pty/slow/connect") { quick in
                        try await quick.type("head -c 12000000 /dev/zero | tr '\\0' x; echo; echo d''one\n")
                        #expect(try await quick.read(until: "done"))
                        #expect(!quick.output.contains("martlet:"))
                        try await slow.socket.setReading(true)
                        try await quick.type("echo la''st; exit 5\n")
                        try await slow.readToEnd()
                        #expect(slow.output.contains("this client was too slow") && slow.output.contains("last"))
                        #expect(slow.close?.reason == #"{"exitCode":5,"exitReason":"non-zero exit"}"#)
                    }
                }
            }
        }

        @Test("The web terminal: its page with the token only, for its own origin only, on the same terminals")
        func page() async throws {
            try await TestDaemon.run(servesPage: true) { daemon async throws in
                let page = try #require(daemon.page)
                #expect(try await TestClient(port: page.port, sendsToken: false).call(.GET, "/").status == 401)
                for (target, content) in [
                    ("/", "xterm.js"), ("/terminal.js", "create-connect"), ("/xterm.css", ".xterm"),
                    ("/xterm.js", "window.Terminal="),
                ] {
                    let answer = try await page.call(.GET, target)
                    #expect(answer.status == 200 && answer.text.contains(content))
                    #expect(answer.headers.first(name: "X-Content-Type-Options") == "nosniff")
                }
                _ = try await daemon.client.call(.POST, "/process/pty", body: #"{"id":"seen","lazyStart":true}"#)
                for (headers, status) in [
                    ([("Origin", "http://sandbox")], 200), ([("Origin", "http://elsewhere")], 403),
                    ([("Origin", "null")], 403),
                    ([("Origin", "https://22222-x.example"), ("X-Forwarded-Host", "22222-x.example")], 200),
                    ([("Origin", "http://sandbox"), ("X-Forwarded-Host", "22222-x.example")], 403),
                ] {
                    let answer = try await page.call(.GET, "/process/pty", headers: headers)
                    #expect(answer.status == status && answer.text.contains("seen") == (status == 200))
                    try await TestSocket.open(port: page.port, "/process/pty/seen/connect", headers: headers) {
                        socket in
                        #expect(socket.status == (status == 200 ? 101 : 403))
                    }
                }
                #expect(try await page.call(.POST, "/process/execute", body: #"{"command":"true"}"#).status == 404)
                _ = try await daemon.client.call(.DELETE, "/process/pty/seen")
            }
        }

        @Test("When the daemon stops, no shell is waited for that ignores SIGTERM")
        func shutdown() async throws {
            let start = ContinuousClock.now
            try await TestDaemon.run { daemon async throws in
                _ = try await daemon.client.call(.POST, "/process/pty", body: #"{"id":"left"}"#)
                try await daemon.client(of: "/process/pty/left/connect") { peer in
                    try await peer.type("echo re''ady\n")
                    #expect(try await peer.read(until: "ready"))
                }
            }
            #expect(ContinuousClock.now - start < .seconds(60))
        }
    }
}

@Suite("Terminal parts")
struct TerminalPartTests {
    @Test("The history agrees with a string, whatever is added and asked")
    func history() {
        var generator = SeededGenerator()
        var history = OutputHistory(limit: 1000)
        var all: [UInt8] = []
        for _ in 0..<2000 {
            let length = Int.random(in: 0...(Bool.random(using: &generator) ? 20 : 1500), using: &generator)
            let piece = (0..<length).map { _ in UInt8.random(in: 9...12, using: &generator) }
            history.append(ByteBuffer(bytes: piece))
            all += piece
            #expect(history.end == all.count && history.start == max(0, all.count - 1000), "SEED=\(generator.seed)")
            let from = Int.random(in: history.start...history.end, using: &generator)
            let count = Int.random(in: 0...1200, using: &generator)
            #expect(
                Array(history.read(from: from, atMost: count).readableBytesView) == Array(all[from...].prefix(count))
            )
            let replay = history.replayStart
            #expect(replay >= history.start && (replay == history.start || all[replay - 1] == UInt8(ascii: "\n")))
        }
    }

    @Test("A terminal that cannot start says why; one that nobody starts is free of charge")
    func failures() async throws {
        let processes = ProcessTable()
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        func session(_ path: String, in directory: String = "/") -> TerminalSession {
            TerminalSession(
                id: "x",
                program: ProgramSpecification(
                    executable: path,
                    arguments: [path],
                    environment: [:],
                    directory: directory
                ),
                size: TerminalSize(columns: 80, rows: 24),
                processes: processes,
                on: loop
            )
        }
        for (path, directory, reason) in [("/no/such", "/", "No such file"), ("/bin/sh", "/no/dir", "/no/dir")] {
            let failing = session(path, in: directory)
            let attachment = try failing.attach()
            guard case .ended(.failed(let message)) = await attachment.next() else {
                Issue.record("it started")
                return
            }
            #expect(message.contains(reason))
            #expect(await attachment.next() == nil)
            #expect(throws: ToolboxError.self) { try failing.attach() }
        }
        let idle = session("/bin/sh")
        await idle.kill()
        #expect(try await idle.ended.get() == .exited(137))
        _ = session("/bin/sh")
    }

    @Test("Clients of a terminal are limited, and a cancelled or detached one stops waiting")
    func attachments() async throws {
        let session = TerminalSession(
            id: "x",
            program: ProgramSpecification(executable: "/bin/cat", arguments: ["cat"], environment: [:], directory: "/"),
            size: TerminalSize(columns: 80, rows: 24),
            processes: ProcessTable(),
            on: MultiThreadedEventLoopGroup.singleton.next()
        )
        var all = try (0..<TerminalLimit.clients).map { _ in try session.attach() }
        #expect(throws: ToolboxError.self) { try session.attach() }
        let waiting = Task { [first = all[0]] in await first.next() }
        waiting.cancel()
        #expect(await waiting.value == nil)
        let leaving = Task { [second = all[1]] in await second.next() }
        all[1].detach()
        #expect(await leaving.value == nil)
        all.removeAll()
        _ = try session.attach()
        await session.kill()
    }
}
