import FoundationEssentials
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import Toolbox

/// A daemon, a home of its own, and a git server with authentication on the loopback (Tests/Rig/git_server.py).
struct GitRig: Sendable {
    struct StatusAnswer: Decodable {
        struct File: Decodable, Equatable {
            var name: String
            var extra: String
            var staging: String
            var worktree: String
        }
        var currentBranch: String
        var detached: Bool
        var upstream: String
        var ahead: Int
        var behind: Int
        var branchPublished: Bool
        var fileStatus: [File]
    }

    static let (user, password) = ("alice", "s3cr:t'$(id)\" é%40")

    let daemon: TestDaemon
    let home: String
    /// Where the server's repositories are.
    let root: String
    let port: Int

    /// Runs a test with a repository `r.git` on the server, which holds one commit of `file` on `main`.
    static func run(_ environment: [String: String] = [:], _ body: (GitRig) async throws -> Void) async throws {
        let home = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: home) }
        let root = "\(home)/remote"
        let variables = ["HOME": home, "XDG_CONFIG_HOME": "", "GIT_CONFIG_NOSYSTEM": "1"].merging(environment) { $1 }
        try await TestDaemon.run(environment: variables) { daemon async throws in
            try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
            try await serve(root) { port async throws in
                let rig = GitRig(daemon: daemon, home: home, root: root, port: port)
                try await rig.prepare()
                try await body(rig)
            }
        }
    }

    /// The address of a repository, served in one of the server's ways.
    func url(_ way: String, _ repository: String = "r.git") -> String {
        "http://127.0.0.1:\(port)/\(way)/\(repository)"
    }

    /// Runs shell commands in the daemon's working directory, which must succeed.
    @discardableResult
    func shell(_ script: String) async throws -> String {
        let answer = try await daemon.execute("set -e; cd '\(daemon.directory)'; \(script)")
        try #require(answer.body.exitCode == 0, "\(script): \(answer.body.result)")
        return answer.body.result
    }

    func post(_ path: String, _ body: [String: Value], method: HTTPMethod = .POST) async throws -> TestClient.Answer {
        let text = String(decoding: try JSONEncoder().encode(body), as: UTF8.self)
        return try await daemon.client.call(method, "/git/\(path)", body: text)
    }

    func get<Answer: Decodable>(_ path: String, as type: Answer.Type) async throws -> Answer {
        let answer = try await daemon.client.call(.GET, "/git/\(path)")
        try #require(answer.status == 200, "\(answer.text)")
        return try JSONDecoder().decode(type, from: Data(answer.body.readableBytesView))
    }

    func status(_ path: String = "w") async throws -> StatusAnswer {
        try await get("status?path=\(path)", as: StatusAnswer.self)
    }

    /// Clones the repository to `w` and sets who commits there.
    func cloneWork(_ path: String = "w") async throws {
        let answer = try await post("clone", ["url": .string(url("open")), "path": .string(path)])
        try #require(answer.status == 200, "\(answer.text)")
        try await shell("git -C \(path) config user.name n; git -C \(path) config user.email e@x")
    }

    /// What the server saw: paths and authorizations.
    func seen() throws -> String {
        String(decoding: try Data(contentsOf: URL(filePath: "\(root)/seen")), as: UTF8.self)
    }

    private func prepare() async throws {
        try await shell(
            """
            git init -q --bare -b main '\(root)/r.git'; git -C '\(root)/r.git' config http.receivepack true
            git init -q -b main seed; cd seed; git config user.name seed; git config user.email seed@x
            echo one > file; git add file; git commit -qm first; git push -q '\(root)/r.git' main; cd ..; rm -rf seed
            """
        )
    }

    private static func serve(_ root: String, _ body: (Int) async throws -> Void) async throws {
        let script = URL(filePath: #filePath).deletingLastPathComponent().path + "/../Rig/git_server.py"
        let variables = EnvironmentStore.ofThisProcess()
        var program = ProgramSpecification(
            executable: try #require(ProgramSearch.find("python3", in: variables)),
            arguments: ["python3", script, root],
            environment: variables.merging(["GIT_SERVER_USER": user, "GIT_SERVER_PASSWORD": password]) { $1 },
            directory: "/"
        )
        program.streams = .apart
        let tree = try await ProcessTable().launch(program, on: MultiThreadedEventLoopGroup.singleton.next())
        defer { tree.kill() }
        async let complaints: Void = drain(try #require(tree.errors))
        try await tree.output.executeThenClose { inbound in
            var pieces = inbound.makeAsyncIterator()
            var line = ""
            while !line.hasSuffix("\n") { line += String(buffer: try #require(try await pieces.next())) }
            try await body(try #require(Int(line.dropFirst("port ".count).dropLast())))
            tree.input?.close()
        }
        try await complaints
    }

    private static func drain(_ stream: NIOAsyncChannel<ByteBuffer, Never>) async throws {
        try await stream.executeThenClose { inbound in for try await _ in inbound {} }
    }
}

extension GitRig {
    /// A value of a request's body.
    enum Value: Encodable, Sendable, ExpressibleByStringLiteral, ExpressibleByBooleanLiteral,
        ExpressibleByIntegerLiteral,
        ExpressibleByArrayLiteral
    {
        case string(String)
        case flag(Bool)
        case number(Int)
        case list([Value])

        init(stringLiteral value: String) { self = .string(value) }
        init(booleanLiteral value: Bool) { self = .flag(value) }
        init(integerLiteral value: Int) { self = .number(value) }
        init(arrayLiteral elements: Value...) { self = .list(elements) }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            switch self {
            case .string(let value): try container.encode(value)
            case .flag(let value): try container.encode(value)
            case .number(let value): try container.encode(value)
            case .list(let values): try container.encode(values)
            }
        }
    }
}

/// Expects the daemon's error shape, with this status and code.
func expectGitError(
    _ answer: TestClient.Answer,
    _ status: Int,
    _ code: String,
    _ part: String = "",
    sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(answer.status == status, "\(answer.text)", sourceLocation: sourceLocation)
    let body = try? JSONDecoder().decode(ErrorAnswer.self, from: Data(answer.body.readableBytesView))
    #expect(body?.code == code && body?.source == "DAYTONA_DAEMON", "\(answer.text)", sourceLocation: sourceLocation)
    #expect(part.isEmpty || body?.message.contains(part) == true, "\(answer.text)", sourceLocation: sourceLocation)
}
