import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("Server", .serialized, .timeLimit(.minutes(5)))
    struct ServerTests {
        @Test("Without the right token nothing answers but 401")
        func token() async throws {
            try await TestDaemon.run { daemon async throws in
                let stranger = TestClient(port: daemon.client.port, sendsToken: false)
                for target in ["/version", "/nothing", "/process/execute"] {
                    #expect(try await stranger.call(.GET, target).status == 401)
                }
                for wrong in ["", "a token for testz", "a token for tests "] {
                    #expect(
                        try await stranger.call(.GET, "/version", headers: [("X-Martlet-Token", wrong + "x")]).status
                            == 401
                    )
                }
                #expect(try await daemon.client.call(.GET, "/version").status == 200)
            }
        }

        @Test("Without a token of its own the daemon takes the first, and its entrypoint waits for it")
        func firstToken() async throws {
            try await TestDaemon.run(entrypoint: ["sh", "-c", "echo begun"], token: nil) { daemon async throws in
                let stranger = TestClient(port: daemon.client.port, sendsToken: false)
                #expect(try await daemon.client.call(.GET, "/version").status == 503)
                #expect(try await stranger.call(.GET, "/init").status == 503)
                #expect(try await stranger.call(.POST, "/init").status == 401, "no token is none")
                #expect(daemon.daemon.processCount == 0)
                #expect(try await daemon.client.call(.GET, "/version").status == 503)
                let limit = [("X-Martlet-Disk-Bytes", "4096")]
                let greeting = try await daemon.client.call(.POST, "/init", headers: limit)
                #expect(greeting.status == 200 && greeting.text.contains(#""version":"\#(daemonVersion)""#))
                #expect(try await daemon.client.call(.GET, "/system/metrics").text.contains(#""diskTotal":4096"#))
                let session = "/process/session/entrypoint/logs"
                #expect(try await eventually { try await daemon.client.call(.GET, session).text.contains("begun") })
                for wrong in ["another", ""] {
                    let headers = [("X-Martlet-Token", wrong)]
                    #expect(try await stranger.call(.POST, "/init", headers: headers).status == 401)
                }
                #expect(try await daemon.client.call(.POST, "/init").status == 200, "again, as after a runner's crash")
                #expect(try await daemon.client.call(.GET, "/version").status == 200)
            }
        }

        @Test("A daemon that is never told a token ends when asked")
        func noToken() async throws {
            try await TestDaemon.run(entrypoint: ["sh"], token: nil) { _ in }
        }

        @Test(
            "Errors have the shape of the contract",
            arguments: [
                ("GET", "/nothing", 404, "NOT_FOUND"), ("POST", "/version", 405, "METHOD_NOT_ALLOWED"),
                ("GET", "/process/session/x/command/y/logs?follow=true", 404, "PROCESS_NOT_FOUND"),
                ("GET", "/computeruse/status", 501, "NOT_IMPLEMENTED"),
                ("POST", "/computeruse/mouse/move", 501, "NOT_IMPLEMENTED"),
                ("GET", "/files/info", 400, "INVALID_FILE_PATH"),
                ("GET", "/process/session/entrypoint", 404, "PROCESS_NOT_FOUND"),
                ("GET", "/port/70000/in-use", 400, "BAD_REQUEST"),
                ("GET", "//version", 404, "NOT_FOUND"),
            ]
        )
        func errorShape(method: String, target: String, status: Int, code: String) async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await daemon.client.call(.init(rawValue: method), target)
                let body = try JSONDecoder().decode(ErrorAnswer.self, from: Data(answer.body.readableBytesView))
                #expect(answer.status == status && body.statusCode == status && body.code == code)
                #expect(
                    body.source == "DAYTONA_DAEMON" && body.method == method && target.hasPrefix(body.path)
                        && !body.message.isEmpty
                )
            }
        }

        @Test("Headers and JSON bodies have limits")
        func limits() async throws {
            try await TestDaemon.run { daemon async throws in
                let huge = [("X-Huge", String(repeating: "x", count: ServerLimit.headerBytes))]
                #expect(try await daemon.client.call(.GET, "/version", headers: huge).status == 400)
                let block = ByteBuffer(repeating: UInt8(ascii: " "), count: 1 << 20)
                let pieces = Array(repeating: block, count: (jsonBodyLimitBytes >> 20) + 1)
                #expect(
                    try await daemon.client.call(.POST, "/process/execute", bodyLength: nil, pieces: pieces).status
                        == 413
                )
            }
        }

        @Test("Version, directories, metrics and ports")
        func information() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await daemon.client.call(.GET, "/version").text == #"{"version":"\#(daemonVersion)"}"#)
                #expect(try await daemon.client.call(.GET, "/work-dir").text == #"{"dir":"\#(daemon.directory)"}"#)
                #expect(try await daemon.client.call(.GET, "/user-home-dir").text == #"{"dir":"/"}"#)
                #expect(try await daemon.client.call(.POST, "/init", body: #"{"token":"x"}"#).status == 200)
                let metrics = try await daemon.client.call(.GET, "/system/metrics")
                let values = try JSONDecoder().decode(Metrics.self, from: Data(metrics.body.readableBytesView))
                #expect(
                    values.cpuCount > 0 && values.memTotal > 0 && values.diskTotal >= values.diskUsed
                        && values.cpuUsedPct >= 0
                )
                let port = daemon.client.port
                #expect(try await daemon.client.call(.GET, "/port/\(port)/in-use").text == #"{"isInUse":true}"#)
                #expect(try await daemon.client.call(.GET, "/port/1/in-use").text == #"{"isInUse":false}"#)
                #expect(try await !daemon.client.call(.GET, "/port").text.contains("\(port)"))
            }
        }

        private struct Metrics: Decodable {
            var cpuCount: Int
            var cpuUsedPct: Double
            var memTotal: Int
            var diskTotal: Int
            var diskUsed: Int
        }

        @Test("Limits and use are read from either version of cgroups")
        func controlGroups() throws {
            let root = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: root) }
            func write(_ name: String, _ text: String) throws {
                let path = "\(root)/\(name)"
                try FileManager.default.createDirectory(atPath: parentPath(path), withIntermediateDirectories: true)
                try Data(text.utf8).write(to: URL(filePath: path))
            }
            try write("v2/cgroup.controllers", "cpu memory\n")
            try write("v2/cpu.max", "150000 100000\n")
            try write("v2/cpu.stat", "usage_usec 1234\nuser_usec 1\n")
            try write("v2/memory.max", "1073741824\n")
            try write("v2/memory.current", "5000\n")
            try write("v2/memory.stat", "anon 1\nfile 2000\n")
            try write("v1/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
            try write("v1/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
            try write("v1/cpu,cpuacct/cpuacct.usage", "99\n")
            try write("v1/memory/memory.limit_in_bytes", "9223372036854771712\n")
            try write("v1/memory/memory.usage_in_bytes", "700\n")
            try write("v1/memory/memory.stat", "cache 1\ntotal_cache 200\n")
            let (new, old) = (ControlGroupFiles(root: "\(root)/v2"), ControlGroupFiles(root: "\(root)/v1"))
            #expect(new.processorLimit() == 1.5 && new.processorNanoseconds() == 1_234_000)
            #expect(new.memory() == (1 << 30, 3000, 2000))
            #expect(old.processorLimit() == 0.5 && old.processorNanoseconds() == 99)
            #expect(old.memory().used == 500 && old.memory().cache == 200 && old.memory().total < 1 << 50)
        }

        @Test("The entrypoint runs beside the daemon; its log, end and absence are told")
        func entrypoint() async throws {
            try await TestDaemon.run(entrypoint: ["sh", "-c", "echo begun; exit 5"]) { daemon async throws in
                #expect(
                    try await eventually {
                        try await daemon.client.call(.GET, "/process/session/entrypoint").text.contains(
                            #""exitCode":5"#
                        )
                    }
                )
                #expect(
                    try await daemon.client.call(.GET, "/process/session/entrypoint/logs").text.contains(
                        #""output":"begun\n""#
                    )
                )
            }
            try await TestDaemon.run(entrypoint: ["no-such-program"]) { daemon async throws in
                #expect(
                    try await eventually {
                        try await daemon.client.call(.GET, "/process/session/entrypoint").text.contains(
                            #""exitCode":127"#
                        )
                    }
                )
                #expect(
                    try await daemon.client.call(.GET, "/process/session/entrypoint/logs").text.contains(
                        "not found in PATH"
                    )
                )
            }
        }
    }
}

extension DaemonSuites {
    @Suite("Code", .serialized, .timeLimit(.minutes(5)))
    struct CodeRunTests {
        @Test(
            "Python: arguments, traceback with source lines, syntax errors, exit code, import from the working directory"
        )
        func python() async throws {
            try await TestDaemon.run { daemon async throws in
                try daemon.write("value = 41", to: "neighbour.py")
                let code =
                    "import sys, neighbour\nprint(sys.argv[1:], __name__, neighbour.value + 1)\ndef f():\n    raise ValueError('no')\nf()"
                let answer = try await run(daemon, code, "python", argv: ["a b", "c"])
                #expect(answer.exitCode == 1)
                #expect(
                    answer.result.hasPrefix(
                        "['a b', 'c'] __main__ 42\nTraceback (most recent call last):\n  File \"<stdin>\", line 5"
                    )
                )
                #expect(answer.result.contains("    raise ValueError('no')\n") && !answer.result.contains("martlet"))
                #expect(try await run(daemon, "x = (", "").result.contains("SyntaxError"))
                #expect(try await run(daemon, "raise SystemExit(9)", "python").exitCode == 9)
                #expect(
                    try await run(daemon, "import os; print(sorted(os.listdir('/proc/self/fd')))", "python").exitCode
                        == 0
                )
            }
        }

        @Test("JavaScript: arguments from index 1, errors, strictness")
        func javaScript() async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await run(
                    daemon,
                    "console.log(process.argv.slice(1)); process.exit(4)",
                    "javascript",
                    argv: ["a", "b"]
                )
                #expect(answer.exitCode == 4 && answer.result == "[ 'a', 'b' ]\n")
                #expect(
                    try await run(daemon, "'use strict'; undeclared = 1", "javascript").result.contains(
                        "ReferenceError"
                    )
                )
                #expect(try await run(daemon, "undeclared = 1", "javascript").exitCode == 0)
            }
        }

        @Test("A missing runtime is named, an unknown language refused, a deadline kept")
        func refusals() async throws {
            let empty = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: empty) }
            try await TestDaemon.run(environment: ["PATH": empty]) { daemon async throws in
                for (language, name) in [("python", "python3"), ("javascript", "node"), ("typescript", "esbuild")] {
                    let answer = try await run(daemon, "1", language)
                    #expect(answer.exitCode == 127 && answer.result.contains(name))
                }
                #expect(
                    try await daemon.client.call(.POST, "/process/code-run", body: #"{"code":"1","language":"cobol"}"#)
                        .status == 400
                )
            }
            try await TestDaemon.run { daemon async throws in
                let body = #"{"code":"import time; print(1); time.sleep(60)","language":"python","timeout":1}"#
                #expect(try await daemon.client.call(.POST, "/process/code-run", body: body).status == 408)
            }
        }

        private func run(_ daemon: TestDaemon, _ code: String, _ language: String, argv: [String] = []) async throws
            -> ExecuteAnswer
        {
            struct Body: Encodable {
                var code: String
                var language: String
                var argv: [String]
            }
            let body = try JSONEncoder().encode(Body(code: code, language: language, argv: argv))
            let answer = try await daemon.client.call(
                .POST,
                "/process/code-run",
                body: String(decoding: body, as: UTF8.self)
            )
            #expect(answer.status == 200)
            return try JSONDecoder().decode(ExecuteAnswer.self, from: Data(answer.body.readableBytesView))
        }
    }
}

@Suite("Charts")
struct ChartTests {
    @Test("A line of the wrapper becomes the SDK's names again; what is no chart is dropped")
    func roundTrip() throws {
        let line =
            #"{"type":"box_and_whisker","title":"T","x_label":"x","elements":[{"label":"1","first_quartile":1.5}]}"#
        let charts = Chart.parse(lines: ByteBuffer(string: "garbage\n\(line)\n{}\n").readableBytesView)
        #expect(charts.count == 1)
        let artifacts = try Chart.artifacts(charts)
        for part in [#""first_quartile":1.5"#, #""x_label":"x""#, #""type":"box_and_whisker""#] {
            #expect(artifacts.contains(part))
        }
    }
}
