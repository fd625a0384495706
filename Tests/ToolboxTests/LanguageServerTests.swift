import FoundationEssentials
import Glibc
import NIOCore
import Testing

@testable import Toolbox

@Suite("Language servers: life", .serialized, .timeLimit(.minutes(5)))
struct LanguageServerLifeTests {
    private func patience(_ change: (inout LanguageServerPatience) -> Void) -> LanguageServerPatience {
        var patience = LanguageServerPatience()
        change(&patience)
        return patience
    }

    @Test("However many start it at a time, there is one; nothing works before and after")
    func starts() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("", to: "slow")
            try rig.write("name", to: "a.py")
            await #expect(throws: ToolboxError.self) { _ = try await rig.symbols("a.py") }
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for _ in 0..<20 { tasks.addTask { try await rig.table.start(rig.project) } }
                try await tasks.waitForAll()
            }
            try await rig.table.start(rig.project)
            #expect(try await rig.symbols("a.py") == ["name", "inner"])
            #expect(rig.log().filter { $0.hasPrefix("start") }.count == 1)
            #expect(rig.processes.count == 1)
            try await rig.table.stop(rig.project)
            #expect(rig.log().suffix(2) == ["shutdown", "exit"])
            #expect(try await eventually { rig.processes.count == 0 })
            await #expect(throws: LanguageServerTable.notStarted(rig.project)) { try await rig.table.stop(rig.project) }
            await #expect(throws: LanguageServerTable.notStarted(rig.project)) { _ = try await rig.symbols("a.py") }
        }
    }

    @Test("A server that is stopped while it starts is not there afterwards, and who waited is told")
    func stoppedWhileStarting() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("", to: "slow")
            let start = Task { try await rig.table.start(rig.project) }
            #expect(try await eventually { rig.log().contains("initialize") })
            try await rig.table.stop(rig.project)
            await #expect(throws: (any Error).self) { try await start.value }
            #expect(try await eventually { rig.processes.count == 0 })
        }
    }

    @Test("A crash is healed at the next call, with the documents that were open")
    func crash() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("kept", to: "kept.py")
            try rig.write("closed", to: "closed.py")
            try rig.write("crash once", to: "bad.py")
            try await rig.table.start(rig.project)
            for name in ["kept.py", "closed.py"] { try await rig.open(name) }
            try await rig.table.server(of: rig.project).perform { try $0.close([rig.path("closed.py")]) }
            // The call under which the server is lost is made again.
            #expect(try await rig.symbols("bad.py") == ["crash once", "inner"])
            let second = try #require(rig.log().lastIndex { $0.hasPrefix("start") })
            #expect(rig.log()[second...].filter { $0.hasPrefix("textDocument/didOpen") }.count == 2)
            #expect(try await rig.symbols("kept.py") == ["kept", "inner"])
            // Killed from outside, by the kernel when memory is short.
            let line = try #require(rig.log().last { $0.hasPrefix("start") })
            let process = try #require(line.split(separator: " ").last.flatMap { Int32($0) })
            kill(process, SIGKILL)
            await #expect(throws: ToolboxError.self) {
                // It ended twice in a row and rests for a second, then for two.
                _ = try await rig.symbols("kept.py")
                _ = try await rig.symbols("kept.py")
                kill(process, SIGKILL)
                throw ToolboxError.badRequest("it did not rest")
            }
            #expect(try await eventually(.seconds(60)) { (try? await rig.symbols("kept.py")) == ["kept", "inner"] })
        }
    }

    @Test("A server that keeps ending rests, longer each time; starting it tries at once; its last words are told")
    func crashLoop() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("crash", to: "a.py")
            try await rig.table.start(rig.project)
            await #expect(throws: ServerLost.self) { _ = try await rig.symbols("a.py") }
            do {
                _ = try await rig.symbols("a.py")
                Issue.record("it does not rest")
            } catch let error as ToolboxError {
                #expect(error.code == "INTERNAL_SERVER_ERROR" && error.message.contains("exited with code 7"))
                #expect(error.message.contains("the last words") && error.message.utf8.count < 2000)
            }
            let starts = rig.log().filter { $0.hasPrefix("start") }.count
            #expect(starts == 2)
            try await rig.table.start(rig.project)
            #expect(rig.log().filter { $0.hasPrefix("start") }.count == 3)
        }
        #expect((0...8).map { LanguageServer.pause(after: $0).components.seconds } == [0, 0, 1, 2, 4, 8, 16, 30, 30])
        #expect(LanguageServer.pause(after: .max) == LanguageServerLimit.pause)
    }

    @Test("One that cannot start says why, and is not there")
    func refusesToStart() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("", to: "refuse")
            do {
                try await rig.table.start(rig.project)
                Issue.record("it started")
            } catch let lost as ServerLost {
                #expect(lost.reason.contains("exited with code 3") && lost.reason.hasSuffix("the last words\n"))
            }
            await #expect(throws: LanguageServerTable.notStarted(rig.project)) { _ = try await rig.symbols("a.py") }
        }
    }

    @Test("Stopping ends what ignores it, and what it started")
    func stubborn() async throws {
        try await LanguageServerRig.run(patience: patience { $0.end = .milliseconds(200) }) { rig in
            try rig.write("", to: "stubborn")
            try await rig.table.start(rig.project)
            #expect(try await eventually { !processes(holding: "76543210").isEmpty })
            try await rig.table.stop(rig.project)
            #expect(try await eventually { rig.processes.count == 0 })
            #expect(processes(holding: "76543210").isEmpty)
        }
    }

    @Test("There is a limit to servers, and it names them")
    func serverLimit() async throws {
        try await LanguageServerRig.run { rig in
            var projects: [ServerProject] = []
            for number in 0...LanguageServerLimit.servers {
                let path = rig.path("p\(number)")
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
                projects.append(ServerProject(language: .python, path: path))
            }
            for project in projects.dropLast() { try await rig.table.start(project) }
            do {
                try await rig.table.start(projects[LanguageServerLimit.servers])
                Issue.record("there is no limit")
            } catch let error as ToolboxError {
                #expect(error.code == "TOO_MANY_REQUESTS" && error.message.contains(projects[0].path))
            }
            try await rig.table.stop(projects[3])
            try await rig.table.start(projects[LanguageServerLimit.servers])
        }
    }
}

@Suite("Language servers: talk", .serialized, .timeLimit(.minutes(5)))
struct LanguageServerTalkTests {
    @Test("What a server asks is answered, so that it does not wait for ever")
    func questions() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("ask", to: "a.py")
            try await rig.table.start(rig.project)
            let replies = try await rig.symbols("a.py").first
            #expect(replies == #"[[null, null], null, null, {"applied": false}, null, -32601]"#)
        }
    }

    @Test("A flood of remarks and of complaints is read and dropped")
    func flood() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("flood", to: "a.py")
            try await rig.table.start(rig.project)
            let limit = 32 << 10
            let growth = try await leastPeakMemoryGrowth(below: limit) {
                let names = try await rig.symbols("a.py")
                #expect(names.first == "flood")
            }
            #expect(growth < limit, "\(growth) KiB")
        }
    }

    @Test("No answer in time: the server is told that nobody waits, and goes on")
    func lateAnswer() async throws {
        var patience = LanguageServerPatience()
        patience.answer = .milliseconds(500)
        try await LanguageServerRig.run(patience: patience) { rig in
            try rig.write("hang", to: "hang.py")
            try rig.write("well", to: "well.py")
            try await rig.table.start(rig.project)
            await #expect(throws: ServerLate.self) { _ = try await rig.symbols("hang.py") }
            #expect(try await eventually { rig.log().contains { $0.hasPrefix("$/cancelRequest") } })
            // One answer that is slow for other reasons must not fail the test.
            #expect(try await eventually { (try? await rig.symbols("well.py").first) == "well" })
            #expect(rig.log().filter { $0.hasPrefix("start") }.count == 1)
        }
    }

    @Test("A caller that goes away takes its request along")
    func cancellation() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("hang", to: "hang.py")
            try await rig.table.start(rig.project)
            let call = Task { try await rig.symbols("hang.py") }
            #expect(try await eventually { rig.log().contains { $0.hasPrefix("textDocument/documentSymbol") } })
            call.cancel()
            await #expect(throws: CancellationError.self) { _ = try await call.value }
            #expect(try await eventually { rig.log().contains { $0.hasPrefix("$/cancelRequest") } })
        }
    }

    @Test("What breaks the protocol is ended", arguments: ["garbage", "deep"])
    func brokenProtocol(how: String) async throws {
        try await LanguageServerRig.run { rig in
            try rig.write(how, to: "a.py")
            try await rig.table.start(rig.project)
            do {
                _ = try await rig.symbols("a.py")
                Issue.record("it was believed")
            } catch let lost as ServerLost {
                #expect(lost.reason.contains("broke the protocol"))
            }
        }
    }

    @Test("One that does not read is taken for hung; until then no more than the limit waits for it")
    func deaf() async throws {
        var patience = LanguageServerPatience()
        patience.reading = .seconds(2)
        try await LanguageServerRig.run(patience: patience) { rig in
            try rig.write("", to: "deaf")
            for number in 0..<8 {
                try rig.write(String(repeating: "x", count: LanguageServerLimit.documentBytes), to: "\(number).py")
            }
            try await rig.table.start(rig.project)
            await #expect(throws: ServerBusy.self) {
                for number in 0..<8 { try await rig.open("\(number).py") }
            }
            // The second server is as deaf.
            await #expect(throws: (any Error).self) { _ = try await rig.symbols("0.py") }
        }
    }

    @Test("A server's own refusal is told apart from its loss")
    func refusal() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("refuse", to: "a.py")
            try await rig.table.start(rig.project)
            await #expect(throws: ServerRefusal(code: -32601, message: "Method Not Found: textDocument/documentSymbol"))
            {
                _ = try await rig.symbols("a.py")
            }
        }
    }

    @Test("Documents follow their files, are opened when asked about, and the one used longest ago makes room")
    func documents() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("one", to: "a.py")
            try await rig.table.start(rig.project)
            #expect(try await rig.symbols("a.py").first == "one")
            #expect(try await rig.symbols("a.py").first == "one")
            try rig.write("three", to: "a.py")
            #expect(try await rig.symbols("a.py").first == "three")
            #expect(rig.log().filter { $0.hasPrefix("textDocument/didOpen") }.count == 2)
            for number in 0..<LanguageServerLimit.openDocuments { try rig.write("\(number)", to: "\(number).py") }
            for number in 0..<LanguageServerLimit.openDocuments { try await rig.open("\(number).py") }
            #expect(try await rig.symbols("0.py").first == "0")
            #expect(rig.log().last { $0.hasPrefix("textDocument/didClose") } == "textDocument/didClose a.py")
            try rig.write(String(repeating: " ", count: LanguageServerLimit.documentBytes + 1), to: "big.py")
            await #expect(throws: ToolboxError.self) { try await rig.open("big.py") }
            await #expect(throws: ToolboxError.self) { try await rig.open("missing.py") }
        }
    }

    @Test("Completions come as the SDK takes them, and files that came, changed or went are told before")
    func completions() async throws {
        try await LanguageServerRig.run { rig in
            let items = #"""
                {"isIncomplete": true, "items": [{"label": "a", "kind": 3, "documentation": "text"},
                {"label": "b", "documentation": {"kind": "markdown", "value": "*x*"}, "textEdit": {"newText": "b()"}},
                {"label": "c", "documentation": null, "insertText": "cc", "data": {"x": [1]}}]}
                """#
            try rig.write(items, to: "a.py")
            try rig.write("", to: "old.py")
            try await rig.table.start(rig.project)
            func complete() async throws -> LanguageCompletions {
                let place = CompletionPlace(position: DocumentPosition(line: 0, character: 0), context: nil)
                return try await rig.table.server(of: rig.project).perform {
                    try await $0.completions(rig.path("a.py"), at: place)
                }
            }
            let list = try await complete()
            #expect(list.isIncomplete && list.items.map(\.label) == ["a", "b", "c"])
            #expect(list.items[0].documentation == .init(kind: "plaintext", value: "text"))
            #expect(list.items[1].documentation == .init(kind: "markdown", value: "*x*"))
            #expect(list.items.map(\.insertText) == [nil, "b()", "cc"] && list.items[2].documentation == nil)
            try rig.write("", to: "new.py")
            try FileManager.default.removeItem(atPath: rig.path("old.py"))
            try rig.write("null", to: "a.py")
            #expect(try await complete() == LanguageCompletions(isIncomplete: false, items: []))
            #expect(rig.log().contains(#"[["new.py", 1], ["a.py", 2], ["old.py", 3]]"#))
        }
    }

    @Test("More requests than may wait are refused")
    func waitingLimit() async throws {
        try await LanguageServerRig.run { rig in
            try rig.write("hang", to: "hang.py")
            try await rig.table.start(rig.project)
            try await rig.open("hang.py")
            let calls = (0..<LanguageServerLimit.waitingRequests).map { _ in
                Task { try await rig.symbols("hang.py") }
            }
            #expect(
                try await eventually(.seconds(60)) {
                    rig.log().filter { $0.hasPrefix("textDocument/documentSymbol") }.count == calls.count
                }
            )
            await #expect(throws: ServerBusy.self) { _ = try await rig.symbols("hang.py") }
            for call in calls { call.cancel() }
            for call in calls { _ = await call.result }
        }
    }
}

@Suite("Language servers: parts")
struct LanguageServerPartTests {
    private func frame(_ text: String, _ header: String = "") -> String {
        "Content-Length: \(text.utf8.count)\r\n\(header)\r\n\(text)"
    }

    @Test("However the output is cut, the same messages come out")
    func anyCutting() throws {
        var random = SeededGenerator()
        for _ in 0..<300 {
            var (text, expected) = ("", [String]())
            for _ in 0..<Int.random(in: 0...5, using: &random) {
                let pieces = ["{}", "[]", "\"[\\\"{\"", "\r\n\r\n", "Content-Length: 3\r\n\r\n", "ö", " "]
                let message = (0..<Int.random(in: 0...5, using: &random)).map { _ in
                    pieces.randomElement(using: &random) ?? ""
                }.joined()
                let header = ["", "Content-Type: x; charset=utf-8\r\n"].randomElement(using: &random) ?? ""
                text += frame(message, header)
                expected.append(message)
            }
            var (parser, found, rest) = (MessageParser(), [String](), Array(text.utf8)[...])
            while !rest.isEmpty {
                let count = Int.random(in: 1...min(rest.count, 12), using: &random)
                found += try parser.take(ByteBuffer(bytes: rest.prefix(count))).map { String(buffer: $0) }
                rest = rest.dropFirst(count)
            }
            #expect(found == expected, "seed \(random.seed): \(text.debugDescription)")
        }
    }

    @Test("No bytes make the parsers trap")
    func garbage() {
        var random = SeededGenerator()
        let alphabet = Array("Content-Length: 0123\r\n{}[]\"\\:,idmethodresult".utf8) + [0, 255]
        for _ in 0..<2000 {
            var parser = MessageParser(limit: 50)
            let bytes = (0..<Int.random(in: 0...60, using: &random)).map { _ in
                alphabet.randomElement(using: &random) ?? 0
            }
            _ = try? parser.take(ByteBuffer(bytes: bytes))
            let body = ByteBuffer(bytes: bytes)
            _ = try? JSONRPCFormat().read(body)
            _ = try? TypeScriptFormat().read(body)
        }
    }

    @Test(
        "Headers that cannot be are refused",
        arguments: [
            "Content-Length: -1\r\n\r\n", "Content-Length: 101\r\n\r\n", "Content-Length: 99999999999999999999\r\n\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "Content-Length:\r\n\r\n", "X: y\r\n\r\n",
            "hello\r\n\r\n",
            "\r\n\r\n", "Content-Length: 0x1\r\n\r\n", String(repeating: "x", count: MessageLimit.headerBytes),
        ]
    )
    func badHeaders(text: String) {
        var parser = MessageParser(limit: 100)
        #expect(throws: MessageError.self) { _ = try parser.take(ByteBuffer(string: text)) }
    }

    @Test("Depth counts outside of strings only")
    func depth() throws {
        func parse(_ text: String) throws -> Int {
            var parser = MessageParser()
            return try parser.take(ByteBuffer(string: frame(text))).count
        }
        let many = String(repeating: "[", count: MessageLimit.depth + 1)
        #expect(try parse("\"\(many)\\\"\(many)\"") == 1)
        #expect(try parse(String(many.dropFirst())) == 1)
        #expect(throws: MessageError.self) { _ = try parse(many) }
    }

    @Test("Symbols become flat, parents first; flat ones stay")
    func flattening() throws {
        let json = #"""
            [{"name":"C","kind":5,"range":RANGE,"selectionRange":RANGE,"children":[
               {"name":"m","kind":6,"range":RANGE,"children":[{"name":"v","kind":13,"range":RANGE}]}]},
             {"name":"f","kind":12,"location":{"uri":"file:///other","range":RANGE},"containerName":"x"},
             {"name":"nowhere","kind":1}]
            """#.replacing(
                "RANGE",
                with: #"{"start":{"line":1,"character":2},"end":{"line":3,"character":4}}"#
            )
        let symbols = flatten(try JSONDecoder().decode([ServerSymbol].self, from: Data(json.utf8)), in: "file:///a")
        #expect(symbols.map(\.name) == ["C", "m", "v", "f"])
        #expect(symbols.map(\.containerName) == [nil, "C", "m", "x"])
        #expect(symbols.map(\.location.uri) == ["file:///a", "file:///a", "file:///a", "file:///other"])
        #expect(symbols[2].location.range.end == DocumentPosition(line: 3, character: 4))
    }

    @Test("More completions than the limit are cut and marked")
    func completionLimit() throws {
        let item = #"{"label":"x"}"#
        let json = "[" + Array(repeating: item, count: completionItemLimit + 1).joined(separator: ",") + "]"
        let list = try JSONDecoder().decode(ServerCompletions.self, from: Data(json.utf8)).completions
        #expect(list.isIncomplete && list.items.count == completionItemLimit)
    }

    @Test(
        "What a client calls a document",
        arguments: [
            ("file:///a/b.py", ["/a/b.py"]), ("file://x.py", ["/p/q/x.py", "/w/x.py"]),
            ("file://q/../x.py", ["/p/q/x.py", "/w/x.py"]), ("file://./q//x.py", ["/p/q/q/x.py", "/w/q/x.py"]),
            ("file:///a%20b", ["/a%20b", "/a b"]), ("file:///../../x", ["/x"]),
            ("file://100%", ["/p/q/100%", "/w/100%"]),
        ]
    )
    func documentPaths(uri: String, paths: [String]) throws {
        let project = ServerProject(language: .python, path: "/p/q")
        #expect(try DocumentPath.candidates(uri, in: project, WorkingDirectory("/w")) == paths)
    }

    @Test("What is no document is refused", arguments: ["", "x.py", "http://x", "file://", "file:/x", "file:///a\0b"])
    func badDocumentPaths(uri: String) {
        let project = ServerProject(language: .python, path: "/p/q")
        #expect(throws: ToolboxError.self) {
            _ = try DocumentPath.candidates(uri, in: project, WorkingDirectory("/w"))
        }
    }

    @Test("The URI of a path leads back to it")
    func uris() {
        #expect(fileURI("/a b/ö#?%.py") == "file:///a%20b/%C3%B6%23%3F%25.py")
        var random = SeededGenerator()
        for _ in 0..<200 {
            let letters = ["a", "/", "%", " ", "ö", "+", "#", "2", "0", "漢", "'", "\n"]
            let path = "/" + (0..<8).map { _ in letters.randomElement(using: &random) ?? "" }.joined()
            #expect(decodePercent(fileURI(path).dropFirst(7), plusIsSpace: false) == path, "seed \(random.seed)")
        }
    }

    @Test("A project's files are found and compared; what was installed is passed over")
    func projectFiles() throws {
        let root = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: root) }
        func write(_ name: String, _ text: String = "x") throws {
            let path = "\(root)/\(name)"
            try FileManager.default.createDirectory(atPath: parentPath(path), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: URL(filePath: path))
        }
        for name in ["a.ts", "src/b.jsx", "src/c.py", "node_modules/m/d.ts", ".git/e.ts", "src/tsconfig.json", "noend"]
        {
            try write(name)
        }
        symlink("/", "\(root)/loop")
        let project = ServerProject(language: .typescript, path: root)
        let before = ProjectFiles.scan(project)
        #expect(Set(before.stamps.keys) == ["\(root)/a.ts", "\(root)/src/b.jsx"])
        #expect(before.configurations == ["\(root)/src/tsconfig.json"])
        #expect(ProjectChanges(from: before, to: before).isEmpty)
        try write("a.ts", "longer")
        try write("new.mts")
        try FileManager.default.removeItem(atPath: "\(root)/src/b.jsx")
        let changes = ProjectChanges(from: before, to: ProjectFiles.scan(project))
        #expect(changes.created == ["\(root)/new.mts"] && changes.changed == ["\(root)/a.ts"])
        #expect(changes.deleted == ["\(root)/src/b.jsx"])
        #expect(ProjectFiles.scan(ServerProject(language: .python, path: "\(root)/nowhere")).stamps.isEmpty)
    }

    @Test("Where no server is installed, the error says what to install")
    func missingServers() throws {
        let empty = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: empty) }
        for (language, remedy) in [(LanguageID.python, "basedpyright"), (.typescript, "node-typescript")] {
            do {
                let project = ServerProject(language: language, path: empty)
                _ = try ServerProgram.find(for: project, in: ["PATH": empty])
                Issue.record("found one for \(language)")
            } catch let error as ToolboxError {
                #expect(error.code == "NOT_IMPLEMENTED" && error.message.contains(remedy))
            }
        }
    }
}
