import FoundationEssentials
import Glibc
import NIOCore
import NIOPosix
import Testing

@testable import Toolbox

/// Those of the shells that this machine has; Debian's busybox is a shell under the name `sh`.
private func shellsHere() -> [String] {
    ["/usr/bin/zsh", "/usr/bin/bash", "/usr/bin/dash", "/usr/bin/busybox"].filter { access($0, X_OK) == 0 }
}

/// A command's end as a test sees it.
private struct Ended: Equatable {
    var code: Int
    var output = ""
    var errors = ""
}

/// A session with a given shell, without a server.
private struct ShellBench {
    let session: Session
    let directory: String

    static func run(_ shell: String, _ body: (ShellBench) async throws -> Void) async throws {
        let directory = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        var path = shell
        if shell.hasSuffix("busybox") {
            path = "\(directory)/sh"
            #expect(symlink(shell, path) == 0)
        }
        let surroundings = Session.Surroundings(
            processes: ProcessTable(),
            logs: LogDirectory(in: [directory]),
            spoolDirectory: directory
        )
        let session = try await Session.start(
            "test",
            Shell(path: path),
            environment: ["PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": directory],
            directory: directory,
            in: surroundings,
            on: MultiThreadedEventLoopGroup.singleton.next()
        )
        do { try await body(ShellBench(session: session, directory: directory)) } catch {
            await session.delete()
            throw error
        }
        await session.delete()
        #expect(surroundings.processes.count == 0)
    }

    func run(_ text: String) async throws -> Ended {
        let command = try session.enqueue(SessionCommand.Request(text: text), as: UUID().uuidString)
        return try await ended(command)
    }

    func ended(_ command: SessionCommand) async throws -> Ended {
        var ended = Ended(code: try await command.outcome.get())
        var cursor = LogCursor(command.log, upTo: command.log.end)
        while let piece = await cursor.next() {
            var records = piece.records
            while let record = LogRecord.read(from: &records) {
                switch record.stream {
                case .standardOutput: ended.output += String(buffer: record.payload)
                case .standardError: ended.errors += String(buffer: record.payload)
                }
            }
        }
        return ended
    }
}

@Suite("Session shells", .timeLimit(.minutes(5))) struct SessionShellTests {
    @Test("Directory, variables, functions, arguments and the last status stay", arguments: shellsHere())
    func stateStays(shell: String) async throws {
        try await ShellBench.run(shell) { bench async throws in
            #expect(try await bench.run("cd /usr; export A=1; B=2; f() { echo f$A$B; }; set -- x y") == Ended(code: 0))
            #expect(
                try await bench.run("pwd; f; echo $2; echo oops >&2; (exit 7)")
                    == Ended(
                        code: 7,
                        output: "/usr\nf12\ny\n",
                        errors: "oops\n"
                    )
            )
            #expect(try await bench.run("echo $?; read x || echo eof") == Ended(code: 0, output: "7\neof\n"))
            #expect(try await bench.run("exec 5>five; echo hi >&5").code == 0)
            #expect(try await bench.run("echo more >&5; cat five").output == "hi\nmore\n")
            #expect(try await bench.run("return 3").code == 3)
            #expect(try await bench.run("set -C; set -f; IFS=0123456789p/; alias printf=false command=false").code == 0)
            #expect(try await bench.run("printf '%s' $A").code <= 1)
            #expect(try await bench.run("unalias printf; echo still here").output == "still here\n")
        }
    }

    @Test("Text that is no program ends the command and not the session", arguments: shellsHere())
    func badText(shell: String) async throws {
        try await ShellBench.run(shell) { bench async throws in
            // Without an unterminated "$(": Debian's bash 5.2 corrupts its own memory at that, and the session ends.
            for text in [
                "echo 'unterminated", "if true; then (", "fi", ")", "}",
                "break; continue; false",
                ". /no/such/file", "cd /no/such/directory", "no-such-command-at-all", "readonly R=1; R=2; false",
            ] {
                let ended = try await bench.run(text)
                #expect(ended.code != 0, "\(text)")
                #expect(try await bench.run("echo after") == Ended(code: 0, output: "after\n"), "\(text)")
            }
            #expect(try await bench.run("cat <<'E'\n$HOME 'x\nE").output == "$HOME 'x\n")
            #expect(try await bench.run("cat <<E\nno end").output == "no end\n")
            #expect(try await bench.run("# only a comment").code == 0)
            #expect(try await bench.run("no-such-command-at-all").code == 127)
            let long = String(repeating: "y", count: 1 << 20)
            #expect(try await bench.run("x='\(long)'; echo ${#x}").output == "\(1 << 20)\n")
            #expect(try await bench.run("echo ${#x}").output == "\(1 << 20)\n")
        }
    }

    @Test("Output that looks like the daemon's own words is output", arguments: shellsHere())
    func hostileOutput(shell: String) async throws {
        try await ShellBench.run(shell) { bench async throws in
            let ended = try await bench.run(
                "printf 'b 1\\ne 1 5\\n\\001\\001\\001'; { echo e 1 9 >&8; } 2>/dev/null; false"
            )
            #expect(ended == Ended(code: 1, output: "b 1\ne 1 5\n\u{1}\u{1}\u{1}"))
            #expect(try await bench.run("exec >gone 2>&1; echo lost") == Ended(code: 0))
            #expect(try await bench.run("echo shown; cat gone") == Ended(code: 0, output: "shown\nlost\n"))
            #expect(try await bench.run("set -x").code == 0)
            let traced = try await bench.run("echo traced")
            #expect(traced.output == "traced\n" && traced.errors.contains("echo traced"))
            #expect(!traced.errors.contains("printf"))
        }
    }

    @Test(
        "What ends the shell ends the session with its code",
        arguments: shellsHere(),
        [
            ("exit 3", 3), ("kill -9 $$", 137), ("kill $$; sleep 10", 143), ("exec sh -c 'echo out; exit 4'", 4),
            ("set -e; false; echo no", 1), ("trap 'echo out' EXIT; exit 6", 6),
        ]
    )
    func endsWithTheShell(shell: String, how: (text: String, code: Int)) async throws {
        try await ShellBench.run(shell) { bench async throws in
            let running = try bench.session.enqueue(
                SessionCommand.Request(text: "sleep 0.2; \(how.text)", isAsync: true),
                as: "1"
            )
            let waiting = try bench.session.enqueue(SessionCommand.Request(text: "echo never", isAsync: true), as: "2")
            let ended = try await bench.ended(running)
            #expect(ended.code == how.code)
            #expect(ended.output == (how.text.contains("echo out") ? "out\n" : ""))
            let never = try await bench.ended(waiting)
            #expect(never.code == -1 && never.errors.contains("not run"))
            #expect(throws: ToolboxError.self) {
                try bench.session.enqueue(SessionCommand.Request(text: "true"), as: "3")
            }
            await #expect(throws: ToolboxError.self) { try await bench.session.send("x", to: running) }
            #expect(try bench.session.command("1").exitCode == how.code)
        }
    }

    @Test(
        "A job in the background does not hold its command, and its later output is in the log",
        arguments: shellsHere()
    )
    func backgroundJob(shell: String) async throws {
        try await ShellBench.run(shell) { bench async throws in
            let command = try bench.session.enqueue(
                SessionCommand.Request(text: "(while ! test -e go; do sleep 0.05; done; echo late) & echo early"),
                as: "1"
            )
            #expect(try await bench.ended(command) == Ended(code: 0, output: "early\n"))
            #expect(try await bench.run("echo next; touch go") == Ended(code: 0, output: "next\n"))
            #expect(try await eventually { try await bench.ended(command).output == "early\nlate\n" })
            #expect(try await bench.run("wait; echo reaped").output == "reaped\n")
        }
    }

    @Test("A command sees three descriptors, and none of the daemon's", arguments: shellsHere())
    func descriptors(shell: String) async throws {
        try await ShellBench.run(shell) { bench async throws in
            let ended = try await bench.run(
                "/usr/bin/env python3 -c 'import os; print(sorted(int(n) for n in os.listdir(\"/proc/self/fd\"))[:4])'"
            )
            #expect(ended.output == "[0, 1, 2, 3]\n")
            #expect(try await bench.run("(echo x >&8) 2>/dev/null || echo closed").output == "closed\n")
            #expect(try await bench.run("test -e /proc/self/fd/9 || echo closed").output == "closed\n")
        }
    }

    @Test("All that a command wrote before its end is in the answer", arguments: shellsHere())
    func nothingIsLost(shell: String) async throws {
        try await ShellBench.run(shell) { bench async throws in
            for count in [1, 4095, 4096, 65535, 65536, 65537, 300_000] {
                // The job holds the pipes open, so only counting tells when all is read.
                let ended = try await bench.run(
                    "sleep 5 & head -c \(count) /dev/zero | tr '\\0' x; head -c 10 /dev/zero | tr '\\0' y >&2"
                )
                #expect(ended.output.utf8.count == count && ended.errors.utf8.count == 10)
            }
        }
    }
}
