import FoundationEssentials
import Glibc
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import ServiceLifecycle
import Testing

@testable import Toolbox

/// All suites that start daemons, one after the other: some measure memory or count processes.
@Suite("Daemon", .serialized)
enum DaemonSuites {}

/// The daemon's own server on a free port, with a working directory of its own.
struct TestDaemon: Sendable {
    let client: TestClient
    /// The working directory.
    let directory: String
    let daemon: ToolboxDaemon
    /// The web terminal, if it is served.
    var page: TestClient?

    /// Runs a test against a new daemon, and checks at the end that none of its processes is left.
    static func run(
        entrypoint: [String] = [],
        environment: [String: String] = [:],
        token: String? = TestClient.token,
        controlGroup: String? = nil,
        servesPage: Bool = false,
        adjust: (inout DaemonConfiguration) -> Void = { _ in },
        _ body: (TestDaemon) async throws -> Void
    ) async throws {
        signal(SIGPIPE, SIG_IGN)
        let directory = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        var variables = EnvironmentStore.ofThisProcess()
        variables["TMPDIR"] = nil
        variables.merge(environment) { $1 }
        var configuration = DaemonConfiguration(
            token: token,
            port: 0,
            environment: variables,
            entrypoint: entrypoint,
            workingDirectory: WorkingDirectory(directory),
            home: "/",
            terminalPort: servesPage ? 0 : nil,
            stopGrace: .milliseconds(500)
        )
        if let controlGroup { configuration.controlGroupRoot = controlGroup }
        configuration.recordingDirectories = ["\(directory)/recordings"]
        adjust(&configuration)
        let (ports, announce) = AsyncStream.makeStream(of: Int.self)
        let (pagePorts, announcePage) = AsyncStream.makeStream(of: Int.self)
        let daemon = ToolboxDaemon(
            configuration: configuration,
            group: MultiThreadedEventLoopGroup.singleton,
            logger: Logger(label: "test"),
            onListening: { announce.yield($0) },
            onTerminalListening: { announcePage.yield($0) }
        )
        let group = ServiceGroup(services: [daemon], logger: Logger(label: "test"))
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await group.run() }
            var iterator = ports.makeAsyncIterator()
            let port = try #require(await iterator.next())
            var running = TestDaemon(client: TestClient(port: port), directory: directory, daemon: daemon)
            if servesPage {
                var pages = pagePorts.makeAsyncIterator()
                running.page = TestClient(port: try #require(await pages.next()))
            }
            try await body(running)
            await group.triggerGracefulShutdown()
            try await tasks.waitForAll()
        }
        #expect(daemon.processCount == 0)
    }

    /// Runs a command and answers its result.
    func execute(_ command: String, timeout: Int = 60) async throws -> (status: Int, body: ExecuteAnswer) {
        let request = try JSONEncoder().encode(["command": JSONScalar.string(command), "timeout": .int(timeout)])
        let answer = try await client.call(.POST, "/process/execute", body: String(decoding: request, as: UTF8.self))
        return (answer.status, try JSONDecoder().decode(ExecuteAnswer.self, from: Data(answer.body.readableBytesView)))
    }

    /// An absolute path below the working directory.
    func path(_ name: String) -> String { "\(directory)/\(name)" }

    /// Writes a file below the working directory.
    func write(_ text: String, to name: String) throws {
        try Data(text.utf8).write(to: URL(filePath: path(name)))
    }

    /// The text of a file below the working directory.
    func read(_ name: String) throws -> String {
        String(decoding: try Data(contentsOf: URL(filePath: path(name))), as: UTF8.self)
    }
}

struct ExecuteAnswer: Decodable {
    var exitCode: Int?
    var result: String
    var code: String?
    var message: String?
    var truncated: Bool?
}

struct ErrorAnswer: Decodable {
    var statusCode: Int
    var error: String
    var code: String
    var message: String
    var path: String
    var method: String
    var source: String
    var timestamp: String
}

func makeTemporaryDirectory() throws -> String {
    var template = Array("/tmp/martlet-test-XXXXXX".utf8CString)
    try #require(mkdtemp(&template) != nil)
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// Command lines of living processes (no zombies) that hold a text.
func processes(holding text: String) -> [String] {
    let ids = ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).filter { Int($0) != nil }
    return ids.compactMap { id in
        guard let line = try? Data(contentsOf: URL(filePath: "/proc/\(id)/cmdline")) else { return nil }
        let words = String(decoding: line.map { $0 == 0 ? 32 : $0 }, as: UTF8.self)
        return words.contains(text) ? words : nil
    }
}

/// Descriptors of this process.
func openDescriptors() -> Int {
    ((try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []).count
}

/// Waits until a condition holds, at most for a minute.
func eventually(_ limit: Duration = .seconds(60), _ condition: () async throws -> Bool) async throws -> Bool {
    let deadline = ContinuousClock.now + limit
    while ContinuousClock.now < deadline {
        if try await condition() { return true }
        try await Task.sleep(for: .milliseconds(10))
    }
    return try await condition()
}

/// A field of /proc/self/status in KiB, like `VmHWM`.
func statusKilobytes(_ field: String) throws -> Int {
    let status = String(decoding: try Data(contentsOf: URL(filePath: "/proc/self/status")), as: UTF8.self)
    let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("\(field):") })
    return try #require(line.split(separator: " ").dropLast().last.flatMap { Int($0.trimmingPrefix { $0 == "\t" }) })
}

/// Runs `body` and answers by how much the peak of resident memory grew beyond what was resident before, in KiB.
func peakMemoryGrowth(_ body: () async throws -> Void) async throws -> Int {
    try Data("5".utf8).write(to: URL(filePath: "/proc/self/clear_refs"))
    let before = try statusKilobytes("VmRSS")
    try await body()
    return try statusKilobytes("VmHWM") - before
}

/// As `peakMemoryGrowth`, but runs `body` again, five times in all, while it is not below a limit: suites that run beside this
/// one need memory too.
func leastPeakMemoryGrowth(below limit: Int, _ body: () async throws -> Void) async throws -> Int {
    var least = Int.max
    for _ in 0..<5 where least >= limit { least = min(least, try await peakMemoryGrowth(body)) }
    return least
}

/// A generator whose seed is printed by the test that uses it, and taken from `SEED`.
struct SeededGenerator: RandomNumberGenerator {
    let seed: UInt64
    private var state: UInt64

    init() {
        seed = EnvironmentStore.ofThisProcess()["SEED"].flatMap { UInt64($0) } ?? .random(in: 1 ... .max)
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}
