import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import Synchronization
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("Execute", .serialized, .timeLimit(.minutes(5)))
    struct ExecuteTests {
        @Test("Both streams come in the order written, with the exit code, and standard input is empty")
        func outputAndExitCode() async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await daemon.execute("echo one; echo two >&2; cat; echo three; exit 7")
                #expect(answer.status == 200)
                #expect(answer.body.exitCode == 7)
                #expect(answer.body.result == "one\ntwo\nthree\n")
                #expect(try await daemon.execute("kill -9 $$").body.exitCode == 137)
            }
        }

        @Test("A command of 300 KB runs, with its standard input empty and its script's descriptor closed")
        func longCommand() async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await daemon.execute(
                    "printf %s '" + String(repeating: "x", count: 300_000) + "' | wc -c; cat; ls /proc/self/fd"
                )
                #expect(answer.body.exitCode == 0)
                #expect(answer.body.result.split(separator: "\n").first == "300000")
                #expect(answer.body.result.split(separator: "\n").contains("9") == false)
            }
        }

        @Test("A program inherits no descriptor but the first three")
        func descriptors() async throws {
            try await TestDaemon.run { daemon async throws in
                // 3 is the directory that ls itself reads.
                #expect(try await daemon.execute("ls /proc/self/fd | tr '\\n' ' '").body.result == "0 1 2 3 ")
                let script =
                    "true # " + String(repeating: "x", count: 200_000) + "\nexec ls /proc/self/fd | tr '\\n' ' '"
                #expect(try await daemon.execute(script).body.result == "0 1 2 3 ")
            }
        }

        @Test("Directory and variables of the call, relative directory, and what is refused")
        func directoryAndVariables() async throws {
            try await TestDaemon.run(environment: ["MARTLET_SECRET": "s", "KEPT": "k"]) { daemon async throws in
                try await expectExecute(daemon, #"{"command":"pwd","cwd":"/usr"}"#, 200, exitCode: 0, "/usr\n")
                #expect(mkdir(daemon.path("sub"), 0o755) == 0)
                try await expectExecute(
                    daemon,
                    #"{"command":"pwd","cwd":"sub"}"#,
                    200,
                    exitCode: 0,
                    "\(daemon.directory)/sub\n"
                )
                try await expectExecute(
                    daemon,
                    #"{"command":"echo $A$KEPT$MARTLET_SECRET","envs":{"A":"1"}}"#,
                    200,
                    exitCode: 0,
                    "1k\n"
                )
                let lost = try await daemon.client.call(
                    .POST,
                    "/process/execute",
                    body: #"{"command":"pwd","cwd":"/nowhere"}"#
                )
                let reason = try JSONDecoder().decode(ExecuteAnswer.self, from: Data(lost.body.readableBytesView))
                #expect(lost.status == 200 && reason.exitCode == -1 && reason.result.contains("/nowhere"))
                for bad in [
                    #"{"command":"  "}"#, #"{"command":"true","envs":{"1A":"x"}}"#,
                    #"{"command":"true","envs":{"A=B":"x"}}"#,
                    #"{"command":"true","timeout":-1}"#, #"{"command":7}"#, "{", #"{"command":"a\u0000b"}"#,
                ] {
                    #expect(try await daemon.client.call(.POST, "/process/execute", body: bad).status == 400, "\(bad)")
                }
            }
        }

        @Test(
            "At the deadline every process dies, also those that left session and group; the output until then is told"
        )
        func deadlineKillsAll() async throws {
            try await TestDaemon.run { daemon async throws in
                let mark = "4\(UInt32.random(in: 100_000...999_999))"
                let started = ContinuousClock.now
                let answer = try await daemon.execute(
                    "echo partial; sleep \(mark) & (setsid sh -c 'sleep \(mark)' &); trap '' TERM; nohup setsid setsid sleep \(mark) & sleep \(mark)",
                    timeout: 1
                )
                #expect(ContinuousClock.now - started < .seconds(20))
                #expect(answer.status == 408)
                #expect(answer.body.code == "PROCESS_EXECUTION_TIMEOUT")
                #expect(answer.body.result.hasPrefix("partial\n"))
                #expect(answer.body.message?.contains("partial") == true)
                #expect(try await eventually { processes(holding: mark) == [] })
                #expect(try await eventually { daemon.daemon.processCount == 0 })
            }
        }

        @Test("A fork bomb ends at its deadline")
        func forkBomb() async throws {
            try await TestDaemon.run { daemon async throws in
                let mark = "5\(UInt32.random(in: 100_000...999_999))"
                // Each generation replaces itself, so the tree never stops moving.
                let script =
                    "f() { sleep 0.01; f \(mark) & }; f \(mark); sh -c 'while :; do setsid sleep \(mark) & sleep 0.02; done'"
                let answer = try await daemon.execute(script, timeout: 1)
                #expect(answer.status == 408)
                #expect(try await eventually { daemon.daemon.processCount == 0 && processes(holding: mark).isEmpty })
            }
        }

        @Test("A background process with its own output outlives the call, and ends with the daemon")
        func backgroundProcess() async throws {
            let mark = "6\(UInt32.random(in: 100_000...999_999))"
            try await TestDaemon.run { daemon async throws in
                #expect(
                    try await daemon.execute("nohup sleep \(mark) >/dev/null 2>&1 & echo started").body.result
                        == "started\n"
                )
                #expect(try await eventually { processes(holding: "sleep \(mark)").count == 1 })
                #expect(daemon.daemon.processCount == 1)
            }
            #expect(processes(holding: mark) == [])
        }

        @Test("When the client hangs up, its processes die")
        func hangUp() async throws {
            try await TestDaemon.run { daemon async throws in
                let mark = "7\(UInt32.random(in: 100_000...999_999))"
                try await daemon.client.callAndHangUp(
                    .POST,
                    "/process/execute",
                    body: #"{"command":"setsid sleep \#(mark) & sleep \#(mark)"}"#,
                    after: .milliseconds(300)
                )
                #expect(try await eventually { processes(holding: mark).isEmpty && daemon.daemon.processCount == 0 })
            }
        }

        @Test("50 MB of output arrive whole, in little memory")
        func largeOutput() async throws {
            try await TestDaemon.run { daemon async throws in
                let limit = 24 << 10
                let growth = try await leastPeakMemoryGrowth(below: limit) {
                    let received = Mutex(0)
                    let body = #"{"command":"head -c 50000000 /dev/zero | tr '\\0' x"}"#
                    let answer = try await daemon.client.call(
                        .POST,
                        "/process/execute",
                        bodyLength: body.utf8.count,
                        pieces: [ByteBuffer(string: body)],
                        onPiece: { piece in received.withLock { $0 += piece.readableBytes } }
                    )
                    #expect(answer.status == 200)
                    #expect(received.withLock { $0 } == #"{"exitCode":0,"result":"}"#.utf8.count + 1 + 50_000_000)
                }
                #expect(growth < limit, "grew by \(growth) KiB")
            }
        }

        @Test("Output that is no UTF-8 is repaired")
        func invalidText() async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await daemon.execute(#"printf 'a\377\303\n\001"\\'"#)
                #expect(answer.body.result == "a\u{FFFD}\u{FFFD}\n\u{1}\"\\")
            }
        }

        @Test("2,000 forks leave no zombie and no keeper")
        func noZombies() async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await daemon.execute(
                    "i=0; while [ $i -lt 2000 ]; do (true &); i=$((i+1)); done; echo done",
                    timeout: 120
                )
                #expect(answer.body.result == "done\n")
                #expect(try await eventually { daemon.daemon.processCount == 0 })
                #expect(try await eventually { childrenOfThisProcess().isEmpty })
            }
        }

        @Test("Many calls at once all answer right")
        func manyAtOnce() async throws {
            try await TestDaemon.run { daemon async throws in
                try await withThrowingTaskGroup(of: Bool.self) { tasks in
                    for number in 0..<64 {
                        tasks.addTask {
                            try await daemon.execute("sleep 0.1; echo \(number)").body.result == "\(number)\n"
                        }
                    }
                    for try await right in tasks { #expect(right) }
                }
            }
        }

        @Test("Stopping ends a program that ignores TERM, answers its call, and refuses new ones")
        func stopping() async throws {
            let mark = "8\(UInt32.random(in: 100_000...999_999))"
            try await TestDaemon.run { daemon async throws in
                async let answer = daemon.execute("trap '' TERM; echo on; while :; do sleep \(mark); done")
                // The shell's own words hold the text too, but then it may not have got to the trap.
                #expect(
                    try await eventually(.seconds(60)) { processes(holding: mark).contains { $0.hasPrefix("sleep") } }
                )
                await daemon.daemon.stopPrograms()
                #expect(try await answer.body.exitCode == 137)
                #expect(
                    try await daemon.client.call(.POST, "/process/execute", body: #"{"command":"true"}"#).status == 503
                )
            }
            #expect(processes(holding: mark) == [])
        }

        private func expectExecute(
            _ daemon: TestDaemon,
            _ body: String,
            _ status: Int,
            exitCode: Int,
            _ result: String
        ) async throws {
            let answer = try await daemon.client.call(.POST, "/process/execute", body: body)
            let decoded = try JSONDecoder().decode(ExecuteAnswer.self, from: Data(answer.body.readableBytesView))
            #expect(
                answer.status == status && decoded.exitCode == exitCode && decoded.result == result,
                "\(answer.text)"
            )
        }

        private func childrenOfThisProcess() -> [String] {
            let ids = ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).filter { Int($0) != nil }
            return ids.filter { id in
                let stat =
                    (try? Data(contentsOf: URL(filePath: "/proc/\(id)/stat"))).map {
                        String(decoding: $0, as: UTF8.self)
                    } ?? ""
                let fields = stat.split(separator: ")").last?.split(separator: " ") ?? []
                return fields.count > 1 && fields[1] == "\(getpid())"
            }
        }
    }
}

@Suite("Output")
struct OutputTests {
    @Test("The spool keeps the order over memory and file, and cuts at its limit with a note")
    func spool() async throws {
        var spool = OutputSpool(directory: "/tmp", limit: 3 << 20)
        for number in 0..<50 { await spool.append(ByteBuffer(repeating: UInt8(number), count: 100_000)) }
        #expect(spool.output.count == 3 << 20)
        #expect(spool.output.truncation != nil)
        var pieces = spool.output.pieces()
        var all = ByteBuffer()
        while let piece = try await pieces.next() { all.writeImmutableBuffer(piece) }
        #expect(all.readableBytes == 3 << 20)
        let expected = (0..<32).flatMap { [UInt8](repeating: UInt8($0), count: 100_000) }.prefix(3 << 20)
        #expect([UInt8](all.readableBytesView) == Array(expected))
        #expect(try await spool.output.tail(3) == String(decoding: [31, 31, 31], as: UTF8.self))
    }

    @Test("Escaped text is what String makes of the bytes, however they are cut")
    func escaper() throws {
        var random = SeededGenerator()
        for _ in 0..<3000 {
            let interesting: [UInt8] = [
                0, 10, 34, 92, 65, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xFF, 0xE2,
            ]
            let bytes = (0..<Int.random(in: 0...12, using: &random)).map { _ in
                interesting.randomElement(using: &random) ?? 0
            }
            var escaper = JSONTextEscaper()
            var json = ByteBuffer(string: "[\"")
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = Int.random(in: 1...rest.count, using: &random)
                escaper.escape(ByteBuffer(bytes: rest.prefix(count)).readableBytesView, into: &json)
                rest = rest.dropFirst(count)
            }
            escaper.finish(into: &json)
            json.writeString("\"]")
            let decoded = try JSONDecoder().decode([String].self, from: Data(json.readableBytesView))
            #expect(decoded == [String(decoding: bytes, as: UTF8.self)], "seed \(random.seed): \(bytes)")
        }
    }
}
