import SSHServing
import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import Toolbox

/// OpenSSH's own programs, talking to a test daemon's SSH server.
struct SSHClient: Sendable {
    struct Done: Sendable {
        var code: Int
        var output: ByteBuffer
        var errors: String

        var text: String { String(buffer: output) }
    }

    struct Status: Decodable, Sendable {
        struct Key: Decodable, Sendable {
            var key: String
            var expiresInSeconds: Int
        }
        var port: Int?
        var hostKey: String?
        var connections: Int
        var keys: [Key]
    }

    /// Longest that a program of the client's side may take: the machine may be loaded.
    private static let limit = TimeAmount.seconds(90)

    let daemon: TestDaemon
    /// For keys and sockets; its path is short, as that of a socket must be.
    let directory: String
    let port: Int
    private let processes = ProcessTable()

    /// Runs a test with a client whose key is authorised, and checks that nothing is left of its connections.
    static func run(_ body: (SSHClient) async throws -> Void) async throws {
        try await TestDaemon.run { daemon async throws in
            let directory = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: directory) }
            let client = try await connected(to: daemon, directory)
            // The first connection pays for what stays: what libraries remember, the event loops' threads.
            #expect(try await client.ssh("true").code == 0)
            let before = try await client.settledDescriptors()
            try await body(client)
            #expect(try await eventually(.seconds(60)) { client.connectionThreads == 0 })
            #expect(try await eventually(.seconds(60)) { daemon.daemon.processCount == 0 })
            #expect(
                try await eventually(.seconds(60)) { openDescriptors() <= before },
                "\(openDescriptors()), not \(before)"
            )
        }
    }

    /// A client whose key is authorised.
    static func connected(to daemon: TestDaemon, _ directory: String) async throws -> SSHClient {
        let stranger = SSHClient(daemon: daemon, directory: directory, port: 0)
        let key = try await stranger.makeKey("key")
        let port = try #require(try await stranger.authorize([key]).port)
        let client = SSHClient(daemon: daemon, directory: directory, port: port)
        try client.writeConfiguration()
        return client
    }

    // MARK: - The daemon's side

    @discardableResult
    func authorize(_ keys: [String]) async throws -> Status {
        let body = String(decoding: try JSONEncoder().encode(["keys": keys]), as: UTF8.self)
        let answer = try await daemon.client.call(.POST, "/ssh/authorized-keys", body: body)
        #expect(answer.status == 200, "\(answer.text)")
        return try JSONDecoder().decode(Status.self, from: Data(answer.body.readableBytesView))
    }

    var connectionThreads: Int {
        let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
        return tasks.count { task in
            let name = try? Data(contentsOf: URL(filePath: "/proc/self/task/\(task)/comm"))
            return name.map { String(decoding: $0, as: UTF8.self) } == "martlet-ssh-one\n"
        }
    }

    private func settledDescriptors() async throws -> Int {
        _ = try await eventually(.seconds(60)) {
            connectionThreads == 0 && daemon.daemon.processCount == 0 && processes.count == 0
        }
        return openDescriptors()
    }

    // MARK: - The client's side

    /// Makes a key pair and answers the public half.
    func makeKey(_ name: String, type: String = "ed25519") async throws -> String {
        let bits = type == "rsa" ? ["-b", "2048"] : []
        let made = try await run(["ssh-keygen", "-q", "-t", type, "-N", "", "-C", "", "-f", path(name)] + bits)
        #expect(made.code == 0, "\(made.errors)")
        return String(decoding: try Data(contentsOf: URL(filePath: path("\(name).pub"))), as: UTF8.self)
    }

    func path(_ name: String) -> String { "\(directory)/\(name)" }

    private func writeConfiguration() throws {
        let text = """
            Host box
              IdentityFile \(path("key"))
            Host box stranger
              HostName 127.0.0.1
              Port \(port)
              User anybody
              IdentitiesOnly yes
              IdentityAgent none
              StrictHostKeyChecking accept-new
              UserKnownHostsFile \(path("known"))
              LogLevel ERROR
              ConnectTimeout 30

            """
        try Data(text.utf8).write(to: URL(filePath: path("config")))
    }

    /// Runs a command in the sandbox, as `box` with the key that is authorised or as `stranger` with those of the options.
    func ssh(
        _ command: String...,
        as host: String = "box",
        options: [String] = [],
        input: ByteBuffer = ByteBuffer()
    ) async throws -> Done {
        try await run(["ssh", "-F", path("config")] + options + [host] + command, input: input)
    }

    /// Runs commands of sftp's.
    func sftp(_ batch: String) async throws -> Done {
        try await run(["sftp", "-F", path("config"), "-b", "-", "box"], input: ByteBuffer(string: batch + "\n"))
    }

    /// Runs a program to its end.
    func run(_ arguments: [String], input: ByteBuffer = ByteBuffer()) async throws -> Done {
        let tree = try await start(arguments, .apart)
        let alarm = tree.exit.eventLoop.scheduleTask(in: Self.limit) { tree.kill() }
        defer { alarm.cancel() }
        let (errorStream, writer) = (try #require(tree.errors), try #require(tree.input))
        async let output = read(tree.output)
        async let errors = read(errorStream)
        if input.readableBytes > 0 { try? await writer.write(input) }
        writer.close()
        let (all, complaints) = (await output, String(buffer: await errors))
        return Done(code: try await tree.exit.get().code, output: all, errors: complaints)
    }

    /// Starts a program.
    func start(_ arguments: [String], _ streams: ProgramStreams) async throws -> ProcessTree {
        var variables = EnvironmentStore.ofThisProcess()
        variables["SSH_AUTH_SOCK"] = nil
        let name = try #require(arguments.first)
        var program = ProgramSpecification(
            executable: try #require(ProgramSearch.find(name, in: variables)),
            arguments: arguments,
            environment: variables,
            directory: directory
        )
        program.streams = streams
        return try await processes.launch(program, on: MultiThreadedEventLoopGroup.singleton.next())
    }

    /// Runs `body` while `ssh` forwards without a session, once it says that it does.
    func forwarding(_ options: [String], _ body: () async throws -> Void) async throws {
        let control = path("control")
        let opened = try await ssh(
            options: ["-M", "-S", control, "-f", "-N", "-o", "ExitOnForwardFailure=yes"] + options
        )
        #expect(opened.code == 0, "\(opened.errors)")
        let result: Result<Void, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        _ = try await ssh(options: ["-S", control, "-O", "exit"])
        try result.get()
    }

    private func read(_ stream: NIOAsyncChannel<ByteBuffer, Never>) async -> ByteBuffer {
        var all = ByteBuffer()
        // A terminal ends with EIO.
        try? await stream.executeThenClose { inbound in
            for try await piece in inbound { all.writeImmutableBuffer(piece) }
        }
        return all
    }
}

/// A port that nothing listens on at the moment.
func freePort() throws -> Int {
    let socket = try #require(PeerAddress.loopback(port: 0).listen())
    return PeerAddress.of(socket.descriptor).port
}
