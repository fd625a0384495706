import FoundationEssentials
import NIOCore
import NIOHTTP1
import Testing

@testable import Toolbox

extension DaemonSuites {
    /// The servers of the default image, asked over HTTP.
    @Suite("Real language servers", .serialized, .timeLimit(.minutes(5)))
    struct RealLanguageServerTests {
        private struct Completions: Decodable {
            var isIncomplete: Bool
            var items: [LanguageCompletion]
        }

        private func run(_ body: (TestDaemon) async throws -> Void) async throws {
            let variables = EnvironmentStore.ofThisProcess()
            let folder = variables["MARTLET_TEST_LANGUAGE_SERVERS"]
            let path = [folder, variables["PATH"]].compactMap { $0 }.joined(separator: ":")
            try #require(
                ProgramSearch.find("basedpyright-langserver", in: ["PATH": path]) != nil,
                """
                no basedpyright-langserver: run ops/test, or ops/stack/packages --venv DIR and set \
                MARTLET_TEST_LANGUAGE_SERVERS to DIR/language-servers/bin
                """
            )
            try await TestDaemon.run(environment: ["PATH": path], body)
        }

        private func post(_ daemon: TestDaemon, _ route: String, _ fields: String) async throws -> TestClient.Answer {
            try await daemon.client.call(.POST, "/lsp/\(route)", body: "{\(fields)}")
        }

        private func symbols(_ daemon: TestDaemon, _ target: String) async throws -> [LanguageSymbol] {
            let answer = try await daemon.client.call(.GET, "/lsp/\(target)")
            try #require(answer.status == 200, "\(answer.text)")
            return try JSONDecoder().decode([LanguageSymbol].self, from: Data(answer.body.readableBytesView))
        }

        private func completions(_ daemon: TestDaemon, _ fields: String) async throws -> [String] {
            let answer = try await post(daemon, "completions", fields)
            try #require(answer.status == 200, "\(answer.text)")
            return try JSONDecoder().decode(Completions.self, from: Data(answer.body.readableBytesView)).items.map(
                \.label
            )
        }

        private func code(_ answer: TestClient.Answer) throws -> String {
            try JSONDecoder().decode(ErrorAnswer.self, from: Data(answer.body.readableBytesView)).code
        }

        @Test("Python: start, open, symbols of a document and of the project, completions, close, stop")
        func python() async throws {
            try await run { daemon async throws in
                try FileManager.default.createDirectory(
                    atPath: daemon.path("app"),
                    withIntermediateDirectories: true
                )
                try daemon.write("class Martlet:\n    def fly(self): pass\n\nbird = Martlet()\nbird.\n", to: "app/a.py")
                try daemon.write("def feather(): pass\n", to: "app/b.py")
                let project = #""languageId":"python","pathToProject":"app""#
                let query = "languageId=python&pathToProject=\(daemon.path("app"))"
                let early = try await post(daemon, "did-open", "\(project),\"uri\":\"file://a.py\"")
                #expect(early.status == 400)
                #expect(try code(early) == "LSP_SERVER_NOT_INITIALIZED")
                #expect(try await post(daemon, "start", project).status == 200)
                #expect(try await post(daemon, "start", project).status == 200)
                #expect(try await post(daemon, "did-open", "\(project),\"uri\":\"file://a.py\"").status == 200)
                let found = try await symbols(daemon, "document-symbols?\(query)&uri=file%3A%2F%2Fa.py")
                #expect(found.map(\.name).starts(with: ["Martlet", "fly"]) && found[1].containerName == "Martlet")
                #expect(found.allSatisfy { $0.location.uri == fileURI(daemon.path("app/a.py")) })
                let place = #""uri":"file://a.py","position":{"line":4,"character":5}"#
                #expect(try await completions(daemon, "\(project),\(place)").contains("fly"))
                #expect(
                    try await eventually(.seconds(60)) {
                        try await symbols(daemon, "workspacesymbols?\(query)&query=feather").map(\.name) == ["feather"]
                    }
                )
                let missing = try await daemon.client.call(.GET, "/lsp/document-symbols?\(query)&uri=file%3A%2F%2Fc.py")
                #expect(missing.status == 404)
                #expect(try code(missing) == "FILE_NOT_FOUND")
                #expect(try await post(daemon, "did-close", "\(project),\"uri\":\"file://a.py\"").status == 200)
                #expect(try await post(daemon, "stop", project).status == 200)
                #expect(try await eventually(.seconds(60)) { daemon.daemon.processCount == 0 })
                let late = try await daemon.client.call(.GET, "/lsp/workspacesymbols?\(query)&query=x")
                #expect(late.status == 400)
                #expect(try code(late) == "LSP_SERVER_NOT_INITIALIZED")
            }
        }

        @Test("TypeScript and JavaScript", arguments: ["typescript", "javascript"])
        func typeScript(language: String) async throws {
            try await run { daemon async throws in
                let suffix = language == "typescript" ? "ts" : "js"
                let file = "a.\(suffix)"
                try daemon.write("class Martlet { fly() {} }\nconst bird = new Martlet();\nbird.\n", to: file)
                try daemon.write("export function feather() {}\n", to: "b.\(suffix)")
                let project = #""languageId":"\#(language)","pathToProject":"\#(daemon.directory)""#
                let query = "languageId=\(language)&pathToProject=."
                #expect(try await post(daemon, "start", project).status == 200)
                let found = try await symbols(daemon, "document-symbols?\(query)&uri=file%3A%2F%2F\(file)")
                #expect(Set(found.map(\.name)) == ["Martlet", "fly", "bird"])
                #expect(found.first { $0.name == "fly" }?.containerName == "Martlet")
                let place = #""uri":"file://\#(file)","position":{"line":2,"character":5}"#
                #expect(try await completions(daemon, "\(project),\(place)").contains("fly"))
                #expect(
                    try await symbols(daemon, "workspacesymbols?\(query)&query=feather").map(\.name) == ["feather"]
                )
                try daemon.write("export function quill() {}\n", to: "c.\(suffix)")
                #expect(try await symbols(daemon, "workspacesymbols?\(query)&query=quill").map(\.name) == ["quill"])
                try daemon.write("export function plume() {}\n", to: "c.\(suffix)")
                #expect(try await symbols(daemon, "workspacesymbols?\(query)&query=plume").map(\.name) == ["plume"])
                #expect(try await post(daemon, "stop", project).status == 200)
            }
        }

        @Test("A project's own configuration says what is in it")
        func configuration() async throws {
            try await run { daemon async throws in
                for (name, text) in [("in", "feather"), ("out", "quill")] {
                    try FileManager.default.createDirectory(
                        atPath: daemon.path(name),
                        withIntermediateDirectories: true
                    )
                    try daemon.write("export function \(text)() {}\n", to: "\(name)/a.ts")
                }
                try daemon.write(#"{"include":["in"]}"#, to: "tsconfig.json")
                let query = "languageId=typescript&pathToProject=."
                #expect(
                    try await post(daemon, "start", #""languageId":"typescript","pathToProject":".""#).status == 200
                )
                #expect(
                    try await symbols(daemon, "workspacesymbols?\(query)&query=feather").map(\.name) == ["feather"]
                )
                #expect(try await symbols(daemon, "workspacesymbols?\(query)&query=quill").isEmpty)
                for name in ["plume", "vane"] {
                    try daemon.write("export function \(name)() {}\n", to: "in/\(name).ts")
                    #expect(try await symbols(daemon, "workspacesymbols?\(query)&query=\(name)").map(\.name) == [name])
                    try daemon.write("export function \(name)Two() {}\n", to: "in/\(name).ts")
                    #expect(
                        try await symbols(daemon, "workspacesymbols?\(query)&query=\(name)").map(\.name) == [
                            "\(name)Two"
                        ]
                    )
                    try FileManager.default.removeItem(atPath: daemon.path("in/\(name).ts"))
                    #expect(try await symbols(daemon, "workspacesymbols?\(query)&query=\(name)").isEmpty)
                    // The second time with a document open.
                    _ = try await symbols(daemon, "document-symbols?\(query)&uri=file%3A%2F%2Fin/a.ts")
                }
            }
        }

        @Test("A server is behind everything else: for the processor, and when memory is short")
        func confinement() async throws {
            try await run { daemon async throws in
                let project = #""languageId":"python","pathToProject":".""#
                #expect(try await post(daemon, "start", project).status == 200)
                let seen = try await daemon.execute(
                    """
                    for p in $(pgrep -f langserver.index); do
                        tr '\\0' '\\n' </proc/$p/environ | grep -q '^PWD=\(daemon.directory)' || continue
                        cut -d' ' -f19 /proc/$p/stat; cat /proc/$p/oom_score_adj
                        awk '/Max core file size/ { print $5 }' /proc/$p/limits
                    done
                    """
                )
                let numbers = seen.body.result.split(separator: "\n").map(String.init)
                #expect(numbers.count >= 3, "\(seen.body.result)")
                #expect(Int(numbers.first ?? "").map { $0 >= 10 } == true && numbers.dropFirst().first == "900")
                #expect(numbers.dropFirst(2).first == "0")
            }
        }

        @Test(
            "What cannot be is refused and changes nothing",
            arguments: [
                (#""languageId":"ruby","pathToProject":".""#, 400),
                (#""languageId":"python","pathToProject":"nowhere""#, 404),
                (#""languageId":"python","pathToProject":"""#, 400), (#""languageId":"python""#, 400),
                (#""languageId":"python","pathToProject":"/etc/passwd""#, 400), (#""pathToProject":".""#, 400),
            ]
        )
        func badStarts(fields: String, status: Int) async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await post(daemon, "start", fields).status == status)
                #expect(daemon.daemon.processCount == 0)
            }
        }
    }
}
