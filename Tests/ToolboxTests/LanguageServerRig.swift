import FoundationEssentials
import Glibc
import Logging
import NIOCore
import NIOPosix
import Testing

@testable import Toolbox

/// A project with a language server that does what its documents say: for faults that real servers show rarely.
struct LanguageServerRig: Sendable {
    let project: ServerProject
    let table: LanguageServerTable
    let processes: ProcessTable

    /// Runs a test and checks that no process is left.
    static func run(
        patience: LanguageServerPatience = LanguageServerPatience(),
        _ body: (LanguageServerRig) async throws -> Void
    ) async throws {
        signal(SIGPIPE, SIG_IGN)
        let folder = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try makeScriptedServer(in: "\(folder)/bin")
        try FileManager.default.createDirectory(atPath: "\(folder)/project", withIntermediateDirectories: true)
        let processes = ProcessTable()
        let surroundings = LanguageServerSurroundings(
            processes: processes,
            environment: EnvironmentStore(["PATH": "\(folder)/bin:/usr/bin:/bin"]),
            patience: patience,
            loops: MultiThreadedEventLoopGroup.singleton,
            logger: Logger(label: "test")
        )
        let rig = LanguageServerRig(
            project: ServerProject(language: .python, path: "\(folder)/project"),
            table: LanguageServerTable(surroundings),
            processes: processes
        )
        do { try await body(rig) } catch { Issue.record(error) }
        await processes.stop(grace: .zero)
        #expect(processes.count == 0)
    }

    func path(_ name: String) -> String { "\(project.path)/\(name)" }

    func write(_ text: String, to name: String) throws {
        try Data(text.utf8).write(to: URL(filePath: path(name)))
    }

    /// What the scripted server wrote down, a line for each message.
    func log() -> [String] {
        let data = (try? Data(contentsOf: URL(filePath: path("log")))) ?? Data()
        return String(decoding: data, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    /// Names of a document's symbols: the scripted server answers its text.
    func symbols(_ name: String) async throws -> [String] {
        try await table.server(of: project).perform { try await $0.documentSymbols(path(name)) }.map(\.name)
    }

    func open(_ name: String) async throws {
        try await table.server(of: project).perform { try await $0.open(path(name)) }
    }
}

/// Puts a `pylsp` into a folder that speaks the protocol and is told by the texts of documents, and by files in the project,
/// what to do wrong.
func makeScriptedServer(in folder: String) throws {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try Data(scriptedServer.utf8).write(to: URL(filePath: "\(folder)/pylsp"))
    try #require(chmod("\(folder)/pylsp", 0o755) == 0)
}

private let scriptedServer = #"""
    #!/usr/bin/python3
    import json, os, signal, subprocess, sys, time

    out = sys.stdout.buffer

    def note(line):
        with open("log", "a") as log:
            log.write(line + "\n")

    def send(**message):
        body = json.dumps(dict(message, jsonrpc="2.0")).encode()
        out.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        out.flush()

    def receive():
        length = 0
        while True:
            line = sys.stdin.buffer.readline()
            if not line:
                sys.exit(0)
            if line == b"\r\n":
                return json.loads(sys.stdin.buffer.read(length))
            if line.startswith(b"Content-Length:"):
                length = int(line[15:])

    QUESTIONS = [
        ("workspace/configuration", {"items": [{"section": "a"}, {"section": "b"}]}),
        ("client/registerCapability", {"registrations": []}),
        ("window/workDoneProgress/create", {"token": 1}),
        ("workspace/applyEdit", {"edit": {}}),
        ("workspace/semanticTokens/refresh", None),
        ("no/such/thing", {}),
    ]

    def ask():
        replies = []
        for number, (method, parameters) in enumerate(QUESTIONS):
            name = "q%d" % number if number % 2 else number
            send(id=name, method=method, params=parameters)
            reply = receive()
            assert reply["id"] == name and reply["jsonrpc"] == "2.0"
            replies.append(reply["result"] if "result" in reply else reply["error"]["code"])
        return json.dumps(replies)

    note("start %d" % os.getpid())
    sys.stderr.write("complaint\n" * 20000 + "the last words\n")
    sys.stderr.flush()
    if os.path.exists("refuse"):
        sys.exit(3)
    if os.path.exists("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["setsid", "sleep", "76543210"])
    documents = {}
    while True:
        message = receive()
        method, parameters = message.get("method"), message.get("params") or {}
        document = parameters.get("textDocument") or {}
        uri = document.get("uri", "")
        text = documents.get(uri, "unopened")
        note(" ".join([method, os.path.basename(uri), str(parameters.get("id", "")), document.get("languageId", "")]).strip())
        if method == "initialize":
            if os.path.exists("slow"):
                time.sleep(1)
            send(id=message["id"], result={"capabilities": {}})
            if os.path.exists("deaf"):
                time.sleep(100000)
        elif method == "textDocument/didOpen":
            documents[uri] = document["text"]
        elif method == "textDocument/didClose":
            del documents[uri]
        elif method == "workspace/didChangeWatchedFiles":
            note(json.dumps([[os.path.basename(c["uri"]), c["type"]] for c in parameters["changes"]]))
        elif method == "textDocument/documentSymbol":
            if text == "crash":
                os._exit(7)
            if text == "crash once" and not os.path.exists("crashed"):
                open("crashed", "w").close()
                os._exit(7)
            if text == "hang":
                continue
            if text == "garbage":
                out.write(b"what is this?\r\n\r\n")
                out.flush()
                continue
            if text == "deep":
                body = b'{"id":%d,"result":' % message["id"] + b"[" * 100000 + b"]" * 100000 + b"}"
                out.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                out.flush()
                continue
            if text == "refuse":
                send(id=message["id"], error={"code": -32601, "message": "Method Not Found: " + method})
                continue
            if text == "ask":
                text = ask()
            if text == "flood":
                for number in range(20000):
                    send(method="window/logMessage", params={"type": 3, "message": "x" * 100})
            place = {"start": {"line": 0, "character": 0}, "end": {"line": 1, "character": 0}}
            inner = {"name": "inner", "kind": 13, "range": place, "selectionRange": place}
            outer = {"name": text, "kind": 12, "range": place, "selectionRange": place, "children": [inner]}
            send(id=message["id"], result=[outer])
        elif method == "workspace/symbol":
            send(id=message["id"], result=[])
        elif method == "textDocument/completion":
            send(id=message["id"], result=json.loads(text))
        elif os.path.exists("stubborn"):
            pass
        elif method == "shutdown":
            send(id=message["id"], result=None)
        elif method == "exit":
            sys.exit(0)
    """#
