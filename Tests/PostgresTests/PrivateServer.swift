import Foundation
import Postgres

/// A Postgres server of a test's own, which it may stop, kill and start.
struct PrivateServer: Sendable {
    private let programs: String
    private let directory: String
    private let port: Int

    var configuration: PostgresConfiguration {
        get throws { try PostgresConfiguration(url: "postgres://postgres@127.0.0.1:\(port)/postgres") }
    }

    /// Makes the server's files and removes them at the end, the server stopped; does not start it.
    static func with(_ body: (PrivateServer) async throws -> Void) async throws {
        let programs = try await run(["pg_config", "--bindir"])
        let directory = try await runAsPostgres(["mktemp", "-d", "/tmp/martlet-postgres-XXXXXX"])
        let server = PrivateServer(programs: programs, directory: directory, port: try freePort())
        do {
            try await runAsPostgres(
                ["\(programs)/initdb", "-D", "\(directory)/data", "-U", "postgres", "--auth=trust", "--no-sync"])
            try await body(server)
        } catch {
            try await server.remove()
            throw error
        }
        try await server.remove()
    }

    /// Below those ports that the kernel gives to whoever connects: other tests do so all the time.
    private static func freePort() throws -> Int {
        for _ in 0..<100 {
            if let found = try? SilentListener(port: .random(in: 10_000..<20_000)) { return found.port }
        }
        throw MissingPart(description: "no free port between 10000 and 20000")
    }

    func start() async throws {
        try await control(
            "start",
            "-l",
            "\(directory)/log",
            "-o",
            "-p \(port) -h 127.0.0.1 -k \(directory) -c fsync=off"
        )
    }

    /// Without goodbye, as after a crash.
    func kill() async throws { try await control("stop", "-m", "immediate") }

    private func remove() async throws {
        try? await kill()
        try await Self.runAsPostgres(["rm", "-rf", directory])
    }

    private func control(_ arguments: String...) async throws {
        try await Self.runAsPostgres(["\(programs)/pg_ctl", "-w", "-D", "\(directory)/data"] + arguments)
    }

    /// The server refuses to run as root.
    @discardableResult
    private static func runAsPostgres(_ command: [String]) async throws -> String {
        try await run(geteuid() == 0 ? ["runuser", "-u", "postgres", "--"] + command : command)
    }

    /// Runs a program to its end; answers what it wrote. Not by Foundation's `Process`, which waits for grandchildren too,
    /// and a server is one.
    private static func run(_ command: [String]) async throws -> String {
        let output = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: output) }
        let status = await withCheckedContinuation { continuation in
            DispatchQueue.global().async { continuation.resume(returning: spawnAndWait(command, output: output.path)) }
        }
        let text = (try? String(contentsOf: output, encoding: .utf8)) ?? ""
        guard status == 0 else { throw MissingPart(description: "\(command.joined(separator: " ")) failed: \(text)") }
        return text.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Blocks; answers what `waitpid` does, or -1.
    private static func spawnAndWait(_ command: [String], output: String) -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        let arguments = command.map { strdup($0) }
        defer { arguments.forEach { free($0) } }
        var child = pid_t()
        guard posix_spawnp(&child, command[0], &actions, nil, arguments + [nil], environ) == 0 else { return -1 }
        var status: Int32 = -1
        while waitpid(child, &status, 0) < 0 && errno == EINTR {}
        return status
    }
}
