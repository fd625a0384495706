import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import Toolbox

/// An asciicast file, every line of which was read.
private struct Cast {
    var header: CastHeader
    var events: [CastEvent]

    init(_ file: ByteBuffer) throws {
        let text = String(buffer: file)
        try #require(text.hasSuffix("\n"), "whole lines only")
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map { Data($0.utf8) }
        header = try JSONDecoder().decode(CastHeader.self, from: try #require(lines.first))
        events = try lines.dropFirst().map { try JSONDecoder().decode(CastEvent.self, from: $0) }
        #expect(events.map(\.seconds) == events.map(\.seconds).sorted())
    }

    func contents(_ code: String) -> [String] { events.filter { $0.code == code }.map(\.content) }

    var output: String { contents("o").joined() }
    /// Nil unless it has ended, by a marker.
    var end: String? {
        contents("m").last.flatMap { $0.hasPrefix("recording ended: ") ? String($0.dropFirst(17)) : nil }
    }
}

private struct RecordingList: Decodable {
    struct Item: Decodable {
        var id: String
        var kind: String
        var terminal: String
        var cols: Int
        var rows: Int
        var active: Bool
        var durationSeconds: Double
        var sizeBytes: Int
        var endReason: String?
    }
    var recordsTerminals: Bool
    var recordings: [Item]
}

extension TestDaemon {
    fileprivate func record(_ isOn: Bool = true) async throws {
        let answer = try await client.call(.POST, "/init", headers: [("X-Martlet-Record-Terminals", "\(isOn)")])
        try #require(answer.status == 200)
        #expect(try await list().recordsTerminals == isOn)
    }

    fileprivate func list() async throws -> RecordingList {
        let answer = try await client.call(.GET, "/process/recordings")
        return try JSONDecoder().decode(RecordingList.self, from: Data(answer.body.readableBytesView))
    }

    /// Whose recordings there are.
    fileprivate func recordedTerminals() async throws -> [String] { try await list().recordings.map(\.terminal) }

    fileprivate func download(_ id: String) async throws -> Cast {
        let answer = try await client.call(.GET, "/process/recordings/\(id)/download")
        try #require(answer.status == 200, "\(answer.text)")
        #expect(answer.headers["content-type"] == ["application/x-asciicast"])
        return try Cast(answer.body)
    }

    /// The recordings, once all have ended and are on the disk.
    fileprivate func ended(_ count: Int) async throws -> [(RecordingList.Item, Cast)] {
        var found: [(RecordingList.Item, Cast)] = []
        let isSo = try await eventually(.seconds(60)) {
            found = []
            for item in try await list().recordings where !item.active {
                let answer = try await client.call(.GET, "/process/recordings/\(item.id)/download")
                guard answer.status == 200, let cast = try? Cast(answer.body), cast.end != nil else { return false }
                found.append((item, cast))
            }
            return found.count == count
        }
        try #require(isSo, "not \(count) recordings: \(found.map(\.0))")
        return found
    }

    /// Runs a terminal with these commands to its end; answers what its client was shown.
    @discardableResult
    fileprivate func show(_ commands: String, in id: String, code: UInt16 = 1000) async throws -> String {
        var shown = ""
        try await terminal(id) { peer in
            try await peer.type("\(commands); exit 0\n")
            try await peer.readToEnd()
            #expect(peer.close?.code == code)
            shown = peer.output
        }
        return shown
    }
}

private func mode(_ path: String) -> UInt32? { (try? FileStatus.of(path))?.permissions }

@Suite("Asciicast")
struct CastWriterTests {
    @Test("Random bytes, cut anywhere, are the text that they would be in one piece; each line is an event")
    func anyBytes() throws {
        var random = SeededGenerator()
        for round in 0..<300 {
            let alphabet: [UInt8] = [
                0x00, 0x1B, 0x22, 0x5C, 0x0A, 0x41, 0x7F, 0x80, 0xBF, 0xC3, 0xE2, 0x82, 0xAC, 0xF0, 0x9F,
            ]
            let bytes = (0..<Int.random(in: 0...400, using: &random)).map { _ in
                round.isMultiple(of: 2)
                    ? UInt8.random(in: 0...255, using: &random) : alphabet.randomElement(using: &random)!
            }
            var (writer, lines, rest, time) = (CastWriter(), ByteBuffer(), bytes[...], Duration.zero)
            while !rest.isEmpty {
                let piece = rest.prefix(Int.random(in: 1...20, using: &random))
                writer.output(ByteBuffer(bytes: piece).readableBytesView, at: time, into: &lines)
                rest = rest.dropFirst(piece.count)
                time += .microseconds(Int64.random(in: 0...3_000_000, using: &random))
            }
            writer.mark("recording ended: x", at: time, into: &lines)
            var file = CastHeader(
                width: 80,
                height: 24,
                timestamp: 0,
                title: "",
                env: [:],
                martlet: .init(kind: .pty, terminal: "")
            ).line
            file.writeImmutableBuffer(lines)
            let cast = try Cast(file)
            #expect(cast.output == String(decoding: bytes, as: UTF8.self), "SEED=\(random.seed), round \(round)")
            #expect(cast.end == "x")
        }
    }

    @Test("Long output is several events, and sizes and remarks are written as players want them")
    func forms() throws {
        var (writer, lines) = (CastWriter(), ByteBuffer())
        writer.output(
            ByteBuffer(repeating: 0x41, count: 70_000).readableBytesView,
            at: .milliseconds(1_020),
            into: &lines
        )
        #expect(String(buffer: lines).split(separator: "\n").count == 3)
        #expect(String(buffer: lines).hasPrefix("[1.020000, \"o\", \"AAA"))
        lines = ByteBuffer()
        writer.resize(TerminalSize(columns: 100, rows: 7), at: .zero, into: &lines)
        writer.mark("a \"b\"" + String(repeating: "ü", count: 200), at: .microseconds(5), into: &lines)
        let wanted =
            "[0.000000, \"r\", \"100x7\"]\n[0.000005, \"m\", \"a \\\"b\\\"" + String(repeating: "ü", count: 125)
            + "\"]\n"
        #expect(String(buffer: lines) == wanted)
    }
}

extension DaemonSuites {
    @Suite("Recordings", .serialized, .timeLimit(.minutes(5)))
    struct RecordingTests {
        @Test(
            "A terminal is recorded as its client sees it: sizes, split characters, its end; nothing that was typed silently"
        )
        func terminal() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.show("echo unseen", in: "before")
                try await daemon.record()
                var shown = ""
                try await daemon.terminal("one", query: "&cols=91&rows=17") { peer in
                    // Of another shell, that does not edit lines: what it reads is echoed by nobody once it asks.
                    let ask = "stty -echo; printf 'as''k\\n'; read secret; stty echo"
                    let show = "printf '\\342'; sleep 0.2; printf '\\202\\254 \\377 %s\\n' ${#secret}"
                    try await peer.type("sh -c \"\(ask); \(show)\"\n".replacing("$", with: "\\$"))
                    #expect(try await peer.read(until: "ask\r\n"))
                    try await peer.type("password-1\n")
                    #expect(try await peer.read(until: "\u{20AC} \u{FFFD} 10\r\n"))
                    let size = try await daemon.client.call(
                        .POST,
                        "/process/pty/one/resize",
                        body: #"{"cols":100,"rows":30}"#
                    )
                    #expect(size.status == 200)
                    try await peer.type("exit 3\n")
                    try await peer.readToEnd()
                    shown = peer.output
                }
                let (item, cast) = try await daemon.ended(1)[0]
                #expect(cast.output == shown && !shown.contains("password"))
                #expect(cast.contents("r") == ["100x30"] && cast.contents("i").isEmpty && cast.end == "exit code 3")
                #expect((cast.header.width, cast.header.height, cast.header.version) == (91, 17, 2))
                #expect(cast.header.title == "pty one" && Set(cast.header.env.keys) == ["SHELL", "TERM"])
                #expect(abs(cast.header.timestamp - Date.now.timeIntervalSince1970) < 300)
                #expect((item.kind, item.terminal, item.endReason) == ("pty", "one", "exit code 3"))
                let last = try #require(cast.events.last?.seconds)
                #expect(last >= 0.2 && abs(item.durationSeconds - last) < 0.001)
                #expect(
                    (mode(daemon.path("recordings")), mode(daemon.path("recordings/\(item.id).cast"))) == (0o700, 0o600)
                )
                try await daemon.record(false)
                try await daemon.show("echo unseen", in: "after")
                #expect(try await daemon.list().recordings.count == 1)
            }
        }

        @Test("A terminal of the web page is recorded like those of the toolbox")
        func webTerminal() async throws {
            try await TestDaemon.run(servesPage: true) { daemon async throws in
                try await daemon.record()
                let client = try #require(daemon.page)
                let page = TestDaemon(client: client, directory: daemon.directory, daemon: daemon.daemon)
                let shown = try await page.show("echo hello", in: "tab")
                #expect(try await daemon.ended(1)[0].1.output == shown)
                #expect(try await page.client.call(.GET, "/process/recordings").status == 404, "not for pages")
            }
        }

        @Test("A shell and a command with a terminal through SSH are recorded, a command without one is not")
        func ssh() async throws {
            try await TestDaemon.run { daemon async throws in
                let directory = try makeTemporaryDirectory()
                defer { try? FileManager.default.removeItem(atPath: directory) }
                let client = try await SSHClient.connected(to: daemon, directory)
                try await daemon.record()
                #expect(try await client.ssh("echo plain").text == "plain\n")
                let shown = try await client.ssh("tty; exit 5", options: ["-tt"])
                #expect(shown.code == 5)
                let shell = try await client.ssh(options: ["-tt"], input: ByteBuffer(string: "echo sh''ell; exit\n"))
                #expect(shell.text.contains("shell\r\n"))
                let found = try await daemon.ended(2)
                #expect(found.map(\.0.kind) == ["ssh", "ssh"] && found[0].0.endReason == "exit code 5")
                #expect(found[0].1.output == shown.text && shown.text == "\(found[0].0.terminal)\r\n")
                #expect(found[1].1.output == shell.text)
                #expect(found.allSatisfy { $0.0.cols > 0 && $0.0.rows > 0 })
            }
        }

        @Test("One that goes on is downloaded so far, and ends when it is deleted; its terminal goes on")
        func ongoing() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.record()
                try await daemon.terminal("live") { peer in
                    try await peer.type("echo on''e\n")
                    #expect(try await peer.read(until: "one\r\n"))
                    let item = try #require(try await daemon.list().recordings.first)
                    #expect(item.active && item.endReason == nil)
                    #expect(
                        try await eventually { try await daemon.download(item.id).output.contains("one\r\n") }
                    )
                    let path = "/process/recordings/\(item.id)"
                    #expect(try await daemon.client.call(.GET, path).text.contains(#""active":true"#))
                    #expect(try await daemon.client.call(.DELETE, path).status == 204)
                    for (method, path) in [(HTTPMethod.DELETE, path), (.GET, path), (.GET, "\(path)/download")] {
                        #expect(try await daemon.client.call(method, path).status == 404)
                    }
                    try await peer.type("echo tw''o; exit 0\n")
                    #expect(try await peer.read(until: "two\r\n"))
                    try await peer.readToEnd()
                    #expect(peer.close?.code == 1000)
                }
                #expect(try await daemon.list().recordings.isEmpty)
                #expect(try FileManager.default.contentsOfDirectory(atPath: daemon.path("recordings")).isEmpty)
            }
        }

        @Test("What is no id, or nobody's, is refused by name")
        func badIDs() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await daemon.list().recordings.isEmpty && mode(daemon.path("recordings")) == nil)
                for id in ["x", "..%2F..%2Fetc%2Fpasswd", UUID().uuidString, "%00", String(repeating: "a", count: 300)]
                {
                    for (method, end) in [(HTTPMethod.GET, ""), (.GET, "/download"), (.DELETE, "")] {
                        let answer = try await daemon.client.call(method, "/process/recordings/\(id)\(end)")
                        #expect(answer.status == 400 && answer.text.contains("is no id"), "\(id): \(answer.text)")
                    }
                }
                let stranger = "/process/recordings/\(UUID().uuidString.lowercased())"
                #expect(try await daemon.client.call(.GET, stranger).status == 404)
                #expect(try await daemon.client.call(.POST, stranger).status == 405)
            }
        }

        // MARK: - Limits

        @Test("At its limit a recording ends with a marker, and the terminal goes on")
        func fileLimit() async throws {
            try await TestDaemon.run {
                $0.recordingLimits.recordingBytes = 20_000
            } _: { daemon async throws in
                try await daemon.record()
                let shown = try await daemon.show("head -c 300000 /dev/zero | tr '\\0' x; echo e''nd", in: "long")
                #expect(shown.contains("end\r\n"))
                let (item, cast) = try await daemon.ended(1)[0]
                #expect(item.endReason == "it has 20000 bytes, the limit of a recording" && item.endReason == cast.end)
                #expect(item.sizeBytes <= 20_000 && shown.hasPrefix(cast.output))
            }
        }

        @Test("The oldest that have ended make room; those that go on do not, and then nothing more is recorded")
        func sharedLimits() async throws {
            try await TestDaemon.run {
                $0.recordingLimits.count = 3
                $0.recordingLimits.totalBytes = 60_000
            } _: { daemon async throws in
                try await daemon.record()
                try await daemon.terminal("stays") { peer in
                    try await peer.type("echo st''ays\n")
                    #expect(try await peer.read(until: "stays\r\n"))
                    for name in ["a", "b", "c", "d"] { try await daemon.show(":", in: name) }
                    #expect(try await daemon.recordedTerminals() == ["stays", "c", "d"])
                    try await daemon.show("head -c 50000 /dev/zero | tr '\\0' x", in: "large")
                    #expect(try await daemon.recordedTerminals() == ["stays", "d", "large"])
                    try await daemon.show("head -c 100000 /dev/zero | tr '\\0' x", in: "larger")
                    let ended = try await daemon.ended(1)[0]
                    #expect(ended.0.terminal == "larger" && ended.1.end == "all recordings have 60000 bytes, the limit")
                    try await daemon.terminal("x") { x in
                        try await x.type("echo y''es\n")
                        #expect(try await x.read(until: "yes\r\n"))
                        try await daemon.terminal("y") { y in
                            try await y.type("echo y''es\n")
                            #expect(try await y.read(until: "yes\r\n"))
                            try await daemon.show("echo unrecorded", in: "one-too-many")
                            #expect(try await daemon.recordedTerminals() == ["stays", "x", "y"])
                        }
                    }
                    try await peer.type("exit 0\n")
                    try await peer.readToEnd()
                }
            }
        }

        @Test("On a full disk the recording ends and says so, and the terminal goes on")
        func fullDisk() async throws {
            try await TestDaemon.run { daemon async throws in
                let disk = daemon.path("disk")
                let mount = "mkdir \(disk) && mount -t tmpfs -o size=128k,mode=700 none \(disk)"
                try #require(try await daemon.execute(mount).body.exitCode == 0)
                do {
                    try await fillDisk(disk)
                } catch {
                    Issue.record(error)
                }
                #expect(try await daemon.execute("umount -l \(disk)").body.exitCode == 0)
            }
        }

        private func fillDisk(_ disk: String) async throws {
            try await TestDaemon.run {
                $0.recordingDirectories = ["\(disk)/recordings"]
            } _: { daemon async throws in
                try await daemon.record()
                let shown = try await daemon.show("head -c 500000 /dev/zero | tr '\\0' x; echo e''nd", in: "long")
                #expect(shown.contains("end\r\n"))
                let (item, cast) = try await daemon.ended(1)[0]
                #expect(item.endReason == "cannot write: No space left on device" && cast.end == item.endReason)
                #expect(shown.hasPrefix(cast.output) && !cast.output.isEmpty)
                // With nothing left at all not even a head can be written.
                #expect(try await daemon.execute("head -c 200000 /dev/zero > \(disk)/full").status == 200)
                try await daemon.show("echo e''nd", in: "none")
                #expect(try await eventually { try await daemon.list().recordings.allSatisfy { !$0.active } })
                let none = try #require(try await daemon.list().recordings.last)
                #expect(none.sizeBytes == 0 && none.endReason == item.endReason)
                let answer = try await daemon.client.call(.GET, "/process/recordings/\(none.id)/download")
                #expect(answer.status == 409 && answer.text.contains("No space left"))
            }
        }

        @Test("A directory that others can enter is not used, one that was removed is made again")
        func directories() async throws {
            let parent = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: parent) }
            try FileManager.default.createDirectory(atPath: "\(parent)/open", withIntermediateDirectories: false)
            chmod("\(parent)/open", 0o755)
            symlink("/tmp", "\(parent)/link")
            let directories = ["\(parent)/open", "\(parent)/link", "/proc/none/at/all", "\(parent)/deep/own"]
            try await TestDaemon.run {
                $0.recordingDirectories = directories
            } _: { daemon async throws in
                try await daemon.record()
                try await daemon.show(":", in: "one")
                let one = try await daemon.ended(1)[0].0
                #expect(mode("\(parent)/deep/own/\(one.id).cast") == 0o600)
                try FileManager.default.removeItem(atPath: "\(parent)/deep")
                #expect(
                    try await daemon.client.call(.GET, "/process/recordings/\(one.id)/download").status == 404
                )
                try await daemon.show(":", in: "two")
                #expect(try await eventually { mode("\(parent)/deep/own") == 0o700 })
                #expect(try FileManager.default.contentsOfDirectory(atPath: "\(parent)/open").isEmpty)
            }
        }

        // MARK: - Restarts

        @Test("A later daemon lists what earlier ones recorded, and cuts what one was killed in")
        func restart() async throws {
            let directory = try makeTemporaryDirectory() + "/recordings"
            defer { try? FileManager.default.removeItem(atPath: parentPath(directory)) }
            let adjust: (inout DaemonConfiguration) -> Void = { $0.recordingDirectories = [directory] }
            var first = ""
            try await TestDaemon.run(adjust: adjust) { daemon async throws in
                try await daemon.record()
                try await daemon.show("echo one; exit 4", in: "one", code: 1011)
                first = try await daemon.ended(1)[0].0.id
                // This one goes on until the daemon stops.
                #expect(try await daemon.client.call(.POST, "/process/pty", body: #"{"id":"two"}"#).status == 201)
                #expect(try await eventually { try await daemon.list().recordings.count == 2 })
            }
            let killed = UUID().uuidString.lowercased()
            let file = try Data(contentsOf: URL(filePath: "\(directory)/\(first).cast"))
            let whole = String(decoding: file, as: UTF8.self).split(separator: "\n").prefix(2)
            let cut = whole.joined(separator: "\n") + "\n[7.5, \"o\", \"last\"]\n"
            try Data((cut + "[8.0, \"o\", \"ha").utf8).write(to: URL(filePath: "\(directory)/\(killed).cast"))
            let forged = cut.replacing("\"timestamp\":", with: "\"timestamp\":1e300,\"was\":")
            let huge = UUID().uuidString.lowercased()
            for (garbage, id) in [("", nil), ("{}\n", nil), ("no json at all", nil), (forged, nil), (cut, huge)] {
                let name = "\(directory)/\(id ?? UUID().uuidString.lowercased()).cast"
                try Data(garbage.utf8).write(to: URL(filePath: name))
            }
            let sparse = open("\(directory)/\(huge).cast", O_WRONLY)
            #expect(pwrite(sparse, "\n", 1, 1 << 40) == 1, "a tebibyte that takes no room")
            close(sparse)
            try await TestDaemon.run(adjust: adjust) { daemon async throws in
                // Who asks at the same time is told the same, whoever looks at the files first.
                let counts = try await withThrowingTaskGroup(of: Int.self) { group in
                    for _ in 0..<8 { group.addTask { try await daemon.list().recordings.count } }
                    return try await group.reduce(into: []) { $0.append($1) }
                }
                #expect(counts == Array(repeating: 3, count: 8))
                let all = try await daemon.list()
                #expect(!all.recordsTerminals, "it waits to be told")
                #expect(Set(all.recordings.map(\.terminal)) == ["one", "two"] && all.recordings.count == 3)
                #expect(all.recordings.allSatisfy { !$0.active && $0.endReason != nil })
                #expect(all.recordings.first { $0.id == first }?.endReason == "exit code 4")
                let interrupted = try #require(all.recordings.first { $0.id == killed })
                #expect(interrupted.endReason?.contains("interrupted") == true && interrupted.durationSeconds == 7.5)
                #expect(interrupted.sizeBytes == cut.utf8.count)
                #expect(try await daemon.download(killed).output.hasSuffix("last"))
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory).count == 3, "garbage is removed")
                #expect(try await daemon.client.call(.DELETE, "/process/recordings/\(killed)").status == 204)
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory).count == 2)
            }
            try await TestDaemon.run {
                adjust(&$0)
                $0.recordingLimits.count = 1
            } _: { daemon async throws in
                #expect(try await daemon.recordedTerminals() == ["two"], "a smaller limit holds at once")
            }
        }
    }
}
