import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import Testing

@testable import Toolbox

/// What a client sees of one execution.
private struct Seen {
    struct Frame: Decodable {
        var type: String
        var text: String?
        var name: String?
        var value: String?
        var traceback: String?
    }

    var frames: [Frame] = []
    var code: UInt16?
    var reason = ""

    func text(_ type: String) -> String { frames.filter { $0.type == type }.compactMap(\.text).joined() }
    var stdout: String { text("stdout") }
    var stderr: String { text("stderr") }
    var control: String { text("control") }
    var error: Frame? { frames.first { $0.type == "error" } }
}

extension TestSocket {
    fileprivate func sendCode(_ code: String, _ more: [String: JSONScalar] = [:]) async throws {
        let fields = more.merging(["code": .string(code)]) { $1 }
        try await send(String(decoding: try JSONEncoder().encode(fields), as: UTF8.self))
    }

    /// Everything until the close frame, which is answered.
    fileprivate func see() async throws -> Seen {
        var seen = Seen()
        while let frame = try await next() {
            if let code = frame.code {
                (seen.code, seen.reason) = (code, frame.reason)
                try? await sendClose(code)
                break
            }
            seen.frames.append(try JSONDecoder().decode(Seen.Frame.self, from: Data(frame.content.readableBytesView)))
        }
        return seen
    }
}

extension TestDaemon {
    fileprivate func open(_ body: (TestSocket) async throws -> Void) async throws {
        try await TestSocket.open(port: client.port, "/process/interpreter/execute") { socket in
            #expect(socket.status == 101)
            try await body(socket)
        }
    }

    fileprivate func run(_ code: String, _ more: [String: JSONScalar] = [:]) async throws -> Seen {
        var seen = Seen()
        try await open { socket in
            try await socket.sendCode(code, more)
            seen = try await socket.see()
        }
        return seen
    }

    fileprivate func first(_ message: String) async throws -> Seen {
        var seen = Seen()
        try await open { socket in
            try await socket.send(message)
            seen = try await socket.see()
        }
        return seen
    }

    fileprivate func createContext(_ body: String = "{}") async throws -> ContextAnswer {
        let answer = try await client.call(.POST, "/process/interpreter/context", body: body)
        #expect(answer.status == 200, "\(answer.text)")
        return try JSONDecoder().decode(ContextAnswer.self, from: Data(answer.body.readableBytesView))
    }

    fileprivate func exists(_ name: String) -> Bool { access(path(name), F_OK) == 0 }
}

private struct ContextAnswer: Decodable {
    var id: String
    var cwd: String
    var createdAt: String
    var active: Bool
    var language: String
}

extension DaemonSuites {
    @Suite("Interpreter", .serialized, .timeLimit(.minutes(5)))
    struct InterpreterTests {
        @Test("State is kept between executions, both outputs come, also of programs, and the end is 1000")
        func stateAndOutput() async throws {
            try await TestDaemon.run { daemon async throws in
                let first = try await daemon.run("import os, sys\nx = 20\nprint('out')\nprint('err', file=sys.stderr)")
                #expect(first.stdout == "out\n" && first.stderr == "err\n" && first.error == nil)
                #expect(first.control == "completed" && first.code == 1000 && first.reason == "")
                let second = try await daemon.run(
                    "x += 1\nprint(x, __name__, os.getcwd())\nx\nos.system('echo sub; echo suberr >&2')"
                )
                #expect(second.stdout == "21 __main__ \(daemon.directory)\nsub\n" && second.stderr == "suberr\n")
                #expect(daemon.daemon.processCount == 1)
            }
        }

        @Test("Output comes while the code runs, and a character that comes in two parts is whole")
        func streaming() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.open { socket in
                    let wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
                    try await socket.sendCode("print('first')\n\(wait)os.write(1, b'\\xa9\\xff\\xc3')")
                    #expect(try await socket.next()?.text == #"{"type":"stdout","text":"first\n"}"#)
                    try daemon.write("", to: "go")
                    // The stray continuation, the byte that is never valid, and the character that was cut off.
                    #expect(try await socket.see().stdout == "\u{FFFD}\u{FFFD}\u{FFFD}")
                }
                let split = try await daemon.run(
                    "import time\nos.write(1, b'gr\\xc3')\ntime.sleep(0.2)\nos.write(1, b'\\xbc\\xc3\\x9fe')"
                )
                #expect(split.stdout == "grüße")
            }
        }

        @Test("Exceptions are told with the lines of the user's code only, of earlier executions too")
        func errors() async throws {
            try await TestDaemon.run { daemon async throws in
                _ = try await daemon.run("def divide(n):\n    return 1 / n")
                let seen = try await daemon.run("print('before')\ndivide(0)")
                #expect(seen.stdout == "before\n" && seen.code == 1000 && seen.control == "completed")
                #expect(seen.error?.name == "ZeroDivisionError" && seen.error?.value == "division by zero")
                let trace = try #require(seen.error?.traceback)
                #expect(trace.hasPrefix("Traceback (most recent call last):\n") && trace.contains("return 1 / n"))
                #expect(trace.contains("divide(0)") && !trace.contains("martlet"))
                let syntax = try await daemon.run("def broken(:")
                #expect(
                    syntax.error?.name == "SyntaxError" && syntax.error?.traceback?.contains("def broken(:") == true
                )
                let input = try await daemon.run("input('name? ')")
                #expect(input.error?.name == "EOFError" && input.stdout == "name? ")
                #expect(input.error?.value?.contains("no standard input") == true)
                let exit = try await daemon.run("import sys; sys.exit(3)")
                #expect(exit.error?.name == "SystemExit" && exit.error?.value == "3" && exit.code == 1000)
                #expect(try await daemon.run("sys.exit()").error == nil)
                let long = try await daemon.run("raise ValueError('x' * 10_000_000)")
                #expect(long.error?.name == "ValueError" && (long.error?.value?.count ?? 0) < 20_000)
                #expect(try await daemon.run("print(divide(1))").stdout == "1.0\n")
            }
        }

        @Test("Variables of an execution are of it alone; those of the sandbox reach a process that runs already")
        func variables() async throws {
            try await TestDaemon.run(environment: ["KEPT": "k"]) { daemon async throws in
                let show = "import os\nprint([os.environ.get(n) for n in ('A', 'KEPT', 'NEW')])"
                #expect(try await daemon.run(show).stdout == "[None, 'k', None]\n")
                let own = try await daemon.first(
                    #"{"code":"os.environ['A'] += '!'; print(os.environ['A'], os.environ['KEPT'])","envs":{"A":"1","KEPT":"2"}}"#
                )
                #expect(own.stdout == "1! 2\n")
                #expect(try await daemon.run(show).stdout == "[None, 'k', None]\n")
                _ = try await daemon.client.call(.POST, "/env", body: #"{"set":{"NEW":"n"},"unset":["KEPT"]}"#)
                #expect(try await daemon.run(show).stdout == "[None, None, 'n']\n")
                _ = try await daemon.run("os.environ['NEW'] = 'mine'")
                #expect(try await daemon.run(show).stdout == "[None, None, 'mine']\n")
            }
        }

        @Test("At its timeout the code is interrupted and its state kept")
        func timeout() async throws {
            try await TestDaemon.run { daemon async throws in
                let seen = try await daemon.run(
                    "x = 7\nprint('before')\nimport time\ntime.sleep(600)",
                    ["timeout": .int(3)]
                )
                #expect(seen.stdout == "before\n" && seen.control == "interrupted")
                #expect(seen.error?.name == "KeyboardInterrupt")
                #expect(seen.code == 4008 && seen.reason == "timed out: not finished after 3 s")
                let next = try await daemon.run("print(x)")
                #expect(next.stdout == "7\n" && next.stderr == "")
            }
        }

        @Test("Code that ignores the interrupt is killed with all that it started; the next execution is told")
        func stubborn() async throws {
            try await TestDaemon.run { daemon async throws in
                let mark = "7\(UInt32.random(in: 100_000...999_999))"
                let code = """
                    import os, signal, time
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    os.system('setsid sleep \(mark) & sleep \(mark) &')
                    print('ready')
                    while True: time.sleep(1)
                    """
                let seen = try await daemon.run(code, ["timeout": .int(3)])
                #expect(seen.stdout == "ready\n" && seen.code == 4008 && seen.reason.contains("killed"))
                #expect(try await eventually { processes(holding: mark).isEmpty })
                let next = try await daemon.run("print('code' in globals(), 'os' in globals())")
                #expect(next.stdout == "False False\n" && next.stderr.contains("is lost"))
                #expect(try await daemon.run("print(1)").stderr == "")
            }
        }

        @Test("A process that dies is told as an error, and the next execution gets a new one and is told too")
        func death() async throws {
            try await TestDaemon.run { daemon async throws in
                let exit = try await daemon.run("x = 1\nimport os\nos.write(1, b'last words')\nos._exit(3)")
                #expect(exit.stdout == "last words" && exit.code == 1000)
                #expect(exit.error?.name == "InterpreterDied" && exit.error?.value?.contains("exit code 3") == true)
                let next = try await daemon.run("print('x' in globals())")
                #expect(next.stdout == "False\n" && next.stderr.contains("exit code 3") && next.error == nil)
                let crash = try await daemon.run("import ctypes\nctypes.string_at(0)")
                #expect(crash.error?.value?.contains("SIGSEGV") == true && crash.stderr.contains("<cell 2>"))
                #expect(try await daemon.run("print(1)").stdout == "1\n")
                // Between executions nobody is there to be told but the next.
                _ = try await daemon.run(
                    """
                    import os, threading, time
                    def die():
                        while not os.path.exists('die'): time.sleep(0.01)
                        print('last words')
                        os._exit(4)
                    threading.Thread(target=die).start()
                    """
                )
                try daemon.write("", to: "die")
                #expect(try await eventually(.seconds(60)) { daemon.daemon.processCount == 0 })
                let healed = try await daemon.run("print(2)")
                #expect(healed.stdout == "last words\n2\n" && healed.stderr.contains("exit code 4"))
            }
        }

        @Test("A process that does not even begin the code is killed at the timeout as well")
        func hungProcess() async throws {
            try await TestDaemon.run { daemon async throws in
                // A call through PyDLL keeps the interpreter's lock.
                _ = try await daemon.run(
                    """
                    import ctypes, os, threading, time
                    sleep = ctypes.PyDLL(None).sleep
                    def hang():
                        while not os.path.exists('hang'): time.sleep(0.01)
                        sleep(600)
                    threading.Thread(target=hang).start()
                    """
                )
                try daemon.write("", to: "hang")
                #expect(
                    try await eventually(.seconds(60)) {
                        let seen = try await daemon.run("print(1)", ["timeout": .int(1)])
                        return seen.code == 4008 && seen.reason.contains("killed")
                    }
                )
                let next = try await daemon.run("print(2)")
                #expect(next.stdout == "2\n" && next.stderr.contains("is lost"))
            }
        }

        @Test("Executions of one context wait for each other, those of another do not")
        func queue() async throws {
            try await TestDaemon.run { daemon async throws in
                let other = try await daemon.createContext()
                try await daemon.open { socket in
                    try await socket.sendCode(
                        "import os, time\nprint('runs')\nwhile not os.path.exists('go'): time.sleep(0.01)\ny = 5"
                    )
                    _ = try await socket.next()
                    try await daemon.open { waiting in
                        try await waiting.sendCode("print(y)")
                        #expect(
                            try await daemon.run("print('other')", ["contextId": .string(other.id)]).stdout == "other\n"
                        )
                        try daemon.write("", to: "go")
                        #expect(try await socket.see().code == 1000)
                        #expect(try await waiting.see().stdout == "5\n")
                    }
                }
            }
        }

        @Test("When the client goes away the code is interrupted, and who only waited is forgotten")
        func clientGone() async throws {
            try await TestDaemon.run { daemon async throws in
                let code = """
                    import time
                    x = 'kept'
                    try:
                        print('runs', flush=True)
                        while True: time.sleep(0.01)
                    except KeyboardInterrupt:
                        open('interrupted', 'w').close()
                        raise
                    """
                try await daemon.open { socket in
                    try await socket.sendCode(code)
                    _ = try await socket.next()
                    try await daemon.open { try await $0.sendCode("open('never', 'w')") }
                }
                #expect(try await eventually(.seconds(60)) { daemon.exists("interrupted") })
                let next = try await daemon.run("print(x)")
                #expect(next.stdout == "kept\n" && next.stderr == "")
                #expect(!daemon.exists("never"))
            }
        }

        @Test("A flood stops the program while its client does not read, and no memory grows with it")
        func flood() async throws {
            try await TestDaemon.run { daemon async throws in
                _ = try await daemon.run("print()")
                let growth = try await peakMemoryGrowth {
                    try await daemon.open { socket in
                        try await socket.sendCode(
                            """
                            import threading, time
                            written = 0
                            def flood():
                                global written
                                while True:
                                    print('x' * 65535)
                                    written += 65536
                            flood()
                            """
                        )
                        for _ in 0..<3 { _ = try await socket.next() }
                        try await socket.setReading(false)
                        var before = -1
                        // Until nothing is written for a while.
                        _ = try await eventually(.seconds(60)) {
                            let now = try pipeCounter(of: daemon)
                            defer { before = now }
                            try await Task.sleep(for: .milliseconds(300))
                            return now == before
                        }
                        try await socket.setReading(true)
                    }
                }
                #expect(growth < 64 << 10, "grew by \(growth) KiB")
                let next = try await daemon.run("print(written > 0)")
                #expect(next.stdout == "True\n")
            }
        }

        @Test("A client that stops reading is given up at the timeout")
        func stuckClient() async throws {
            try await TestDaemon.run { daemon async throws in
                try await daemon.open { socket in
                    try await socket.sendCode("while True: print('x' * 65535)", ["timeout": .int(1)])
                    try await socket.setReading(false)
                    #expect(try await eventually(.seconds(60)) { daemon.daemon.processCount == 1 })
                    #expect(try await eventually(.seconds(60)) { daemon.daemon.processCount == 0 })
                }
                #expect(try await daemon.run("print(1)").stdout == "1\n")
            }
        }

        @Test("What threads and programs print after an execution begins the next one, cut to its newest part")
        func lateOutput() async throws {
            try await TestDaemon.run { daemon async throws in
                let seen = try await daemon.run(
                    """
                    import os, threading, time
                    def late():
                        while not os.path.exists('go'): time.sleep(0.01)
                        print('late')
                        open('printed', 'w').close()
                    threading.Thread(target=late).start()
                    """
                )
                #expect(seen.stdout == "" && seen.code == 1000)
                try daemon.write("", to: "go")
                #expect(try await eventually(.seconds(60)) { daemon.exists("printed") })
                #expect(try await daemon.run("print('next')").stdout == "late\nnext\n")
                _ = try await daemon.run(
                    """
                    import subprocess
                    wait = 'while ! test -e flood; do sleep 0.01; done'
                    child = subprocess.Popen(f'{wait}; yes | head -c 1000000; echo end; touch flooded', shell=True)
                    """
                )
                try daemon.write("", to: "flood")
                #expect(try await eventually(.seconds(60)) { daemon.exists("flooded") })
                let cut = try await daemon.run("print(child.wait())")
                #expect(cut.stdout.hasSuffix("y\nend\n0\n") && cut.stdout.utf8.count < 70_000)
                #expect(cut.stderr.contains("dropped"))
            }
        }

        @Test("Contexts: made, listed without the default one, apart from each other, deleted; and what is refused")
        func contexts() async throws {
            try await TestDaemon.run { daemon async throws in
                let made = try await daemon.createContext(#"{"cwd":"/usr","language":"python"}"#)
                #expect(made.cwd == "/usr" && made.language == "python" && made.active && made.createdAt.hasSuffix("Z"))
                let plain = try await daemon.createContext()
                #expect(plain.cwd == daemon.directory)
                #expect(daemon.daemon.processCount == 0, "nothing runs before it is asked to")
                let list = try await daemon.client.call(.GET, "/process/interpreter/context").text
                #expect(list.contains(made.id) && list.contains(plain.id) && !list.contains("default"))
                let id = JSONScalar.string(made.id)
                #expect(
                    try await daemon.run("import os\nz = 1\nprint(os.getcwd())", ["contextId": id]).stdout == "/usr\n"
                )
                #expect(try await daemon.run("z").error?.name == "NameError")
                let deleted = try await daemon.client.call(.DELETE, "/process/interpreter/context/\(made.id)")
                #expect(deleted.status == 200 && deleted.text.contains("message"))
                let gone = try await daemon.run("z", ["contextId": id])
                #expect(gone.code == 1008 && gone.reason.contains(made.id) && gone.frames.isEmpty)
                #expect(try await daemon.client.call(.DELETE, "/process/interpreter/context/\(made.id)").status == 404)
                #expect(try await daemon.client.call(.DELETE, "/process/interpreter/context/default").status == 400)
                for body in [#"{"cwd":"/nowhere"}"#, #"{"cwd":"/etc/passwd"}"#, #"{"language":"cobol"}"#, "{", "[]"] {
                    let answer = try await daemon.client.call(.POST, "/process/interpreter/context", body: body)
                    #expect(answer.status == 400, "\(body)")
                }
                for _ in 1..<InterpreterLimit.contexts { _ = try await daemon.createContext() }
                let full = try await daemon.client.call(.POST, "/process/interpreter/context", body: "{}")
                #expect(full.status == 429 && full.text.contains("\(InterpreterLimit.contexts)"))
            }
        }

        @Test("Deleting a context ends who executes in it, who waits, and every process of it")
        func deleteWhileRunning() async throws {
            try await TestDaemon.run { daemon async throws in
                let context = try await daemon.createContext()
                let id: [String: JSONScalar] = ["contextId": .string(context.id)]
                try await daemon.open { running in
                    try await running.sendCode("print('runs')\nimport time\ntime.sleep(600)", id)
                    _ = try await running.next()
                    try await daemon.open { waiting in
                        try await waiting.sendCode("print('never')", id)
                        let answer = try await daemon.client.call(.DELETE, "/process/interpreter/context/\(context.id)")
                        #expect(answer.status == 200)
                        for socket in [running, waiting] {
                            let seen = try await socket.see()
                            #expect(seen.code == 1008 && seen.reason.contains(context.id) && seen.stdout == "")
                        }
                    }
                }
                #expect(try await eventually(.seconds(60)) { daemon.daemon.processCount == 0 })
            }
        }

        @Test("A first message that is none closes with 1002 and names what is wrong; a plain GET is told to upgrade")
        func badFirstMessages() async throws {
            try await TestDaemon.run { daemon async throws in
                for (message, named) in [
                    ("{", "JSON"), ("{}", "code"), (#"{"code":"","timeout":-1}"#, "timeout"),
                    (#"{"code":"","envs":{"1":""}}"#, "'1'"),
                ] {
                    let seen = try await daemon.first(message)
                    #expect(seen.code == 1002 && seen.reason.contains(named), "\(message): \(seen.reason)")
                }
                #expect(try await daemon.client.call(.GET, "/process/interpreter/execute").status == 426)
                #expect(daemon.daemon.processCount == 0)
            }
        }

        @Test("Without Python the client is told so")
        func noPython() async throws {
            try await TestDaemon.run(environment: ["PATH": "/nowhere"]) { daemon async throws in
                let seen = try await daemon.run("print(1)")
                #expect(seen.code == 1011 && seen.reason.contains("python3"))
                let answer = try await daemon.client.call(.POST, "/process/interpreter/context", body: "{}")
                #expect(answer.status == 422 && answer.text.contains("python3"))
            }
        }

        @Test("A Python that does not start is told with its complaint, and tried again by the next execution")
        func brokenPython() async throws {
            let folder = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: folder) }
            try Data("#!/bin/sh\necho no such library >&2\nexit 5\n".utf8).write(to: URL(filePath: "\(folder)/python3"))
            #expect(chmod("\(folder)/python3", 0o755) == 0)
            try await TestDaemon.run(environment: ["PATH": "\(folder):/usr/bin:/bin"]) { daemon async throws in
                let seen = try await daemon.run("print(1)")
                #expect(seen.code == 1011 && seen.reason.contains("exit code 5"))
                #expect(seen.error?.name == "InterpreterFailed")
                #expect(seen.error?.value?.contains("no such library") == true)
                #expect(unlink("\(folder)/python3") == 0)
                let healed = try await daemon.run("print(1)")
                #expect(healed.stdout == "1\n" || healed.reason.contains("no python3"))
            }
        }

        @Test("Code that writes to the worker's own descriptors loses its process and harms nobody else")
        func forgery() async throws {
            try await TestDaemon.run { daemon async throws in
                let seen = try await daemon.run(
                    """
                    import os
                    for number in range(3, 20):
                        for forged in (b'{"done":1}\\n', b'garbage\\n'):
                            try: os.write(number, forged)
                            except OSError: pass
                    import time
                    time.sleep(600)
                    """
                )
                #expect(seen.error?.name == "InterpreterDied" && seen.error?.value?.contains("protocol") == true)
                #expect(try await daemon.run("print(1)").stdout == "1\n")
            }
        }

        @Test("Top-level await, forks that come back, closed streams, a file called json.py")
        func oddities() async throws {
            try await TestDaemon.run { daemon async throws in
                try daemon.write("raise RuntimeError('the wrong one')", to: "json.py")
                let awaited = try await daemon.run(
                    "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 9\nprint(await f())"
                )
                #expect(awaited.stdout == "9\n" && awaited.error == nil)
                let late = try await daemon.run("await asyncio.sleep(600)", ["timeout": .int(1)])
                #expect(late.code == 4008 && late.control == "interrupted")
                let forked = try await daemon.run(
                    "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    print(os.wait()[1])"
                )
                #expect(forked.stdout == "child\n0\n" && forked.code == 1000)
                _ = try await daemon.run("import sys\nsys.stdout.close()\nexit()")
                #expect(try await daemon.run("print('back')").stdout == "back\n")
                let big = try await daemon.run("print('\(String(repeating: "é", count: 300_000))')")
                #expect(big.stdout.utf8.count == 600_001)
            }
        }
    }
}

/// Bytes that the daemon's programs wrote.
private func pipeCounter(of daemon: TestDaemon) throws -> Int {
    var total = 0
    for id in try FileManager.default.contentsOfDirectory(atPath: "/proc") where Int(id) != nil {
        guard let line = try? Data(contentsOf: URL(filePath: "/proc/\(id)/cmdline")),
            String(decoding: line, as: UTF8.self).contains("<martlet>"),
            let counters = try? Data(contentsOf: URL(filePath: "/proc/\(id)/io"))
        else { continue }
        let text = String(decoding: counters, as: UTF8.self)
        let field = text.split(separator: "\n").first { $0.hasPrefix("wchar:") }
        total += field.flatMap { Int($0.dropFirst(7)) } ?? 0
    }
    return total
}
