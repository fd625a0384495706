import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import Testing

@testable import Toolbox

extension DaemonSuites {
    /// The executable itself, since the supervisor is a process of its own.
    @Suite("Supervisor", .serialized, .timeLimit(.minutes(5)))
    struct SupervisorTests {
        @Test("A killed daemon is followed by one that knows the token and the variables, and nothing else")
        func killed() async throws {
            try await SupervisedDaemon.run(entrypoint: ["sh", "-c", "echo begun; exec sleep 97531"]) {
                its async throws in
                let create = #"{"sessionId":"old"}"#
                #expect(try await its.client.call(.POST, "/process/session", body: create).status == 201)
                let set = #"{"set":{"KEPT":"as it was"},"unset":["TMPDIR"]}"#
                #expect(try await its.client.call(.POST, "/env", body: set).status == 200)
                let stray = #"{"command":"(setsid setsid sleep 97532 >/dev/null 2>&1 &)"}"#
                #expect(try await its.client.call(.POST, "/process/execute", body: stray).status == 200)
                #expect(try await eventually { !processes(holding: "sleep 97532").isEmpty })

                for restarts in 1...2 {
                    let old = try #require(its.daemon)
                    kill(old, SIGKILL)
                    try await its.awaitAnswer()
                    #expect(its.daemon != old)
                    #expect(processes(holding: "sleep 97532").isEmpty)
                    let show = #"{"command":"echo $KEPT/${TMPDIR-none}"}"#
                    let shown = try await its.client.call(.POST, "/process/execute", body: show)
                    #expect(shown.text.contains(#""result":"as it was/none\n""#))
                    let missing = try await its.client.call(.GET, "/process/session/old")
                    #expect(missing.status == 404 && missing.text.contains("daemon was restarted"))
                    #expect(restarts == 1 || missing.text.contains("restarted 2 times"))
                    #expect(
                        try await eventually {
                            let logs = try await its.client.call(.GET, "/process/session/entrypoint/logs").text
                            return logs.contains("begun") && logs.contains("it runs again")
                        }
                    )
                }
                let stranger = TestClient(port: its.client.port, sendsToken: false)
                #expect(try await stranger.call(.POST, "/init", headers: [("X-Martlet-Token", "x")]).status == 401)
            }
        }

        @Test("The token is in no variable that /proc shows, neither the supervisor's nor the daemon's")
        func token() async throws {
            try await SupervisedDaemon.run { its async throws in
                for process in [its.supervisor, try #require(its.daemon)] {
                    let shown = try Data(contentsOf: URL(filePath: "/proc/\(process)/environ"))
                    #expect(shown.firstRange(of: Data(TestClient.token.utf8)) == nil)
                    let files = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(process)/fd")
                    #expect(!files.contains { readLink("/proc/\(process)/fd/\($0)").contains("memfd") })
                }
            }
        }

        @Test("A daemon that is stopped goes on")
        func stopped() async throws {
            try await SupervisedDaemon.run { its async throws in
                let daemon = try #require(its.daemon)
                for _ in 0..<10 { kill(daemon, SIGSTOP) }
                #expect(try await its.client.call(.GET, "/version").status == 200)
                #expect(its.daemon == daemon)
            }
        }

        @Test("What an engine sends to stop a sandbox ends both", arguments: [SIGTERM, SIGINT, SIGQUIT, SIGHUP])
        func asked(signal number: CInt) async throws {
            try await SupervisedDaemon.run(entrypoint: ["sleep", "97533"]) { its async throws in
                #expect(try await eventually { !processes(holding: "sleep 97533").isEmpty })
                kill(its.supervisor, SIGWINCH)
                kill(its.supervisor, number)
                #expect(try await its.end() == .exited(0))
                #expect(processes(holding: "sleep 97533").isEmpty)
            }
        }

        @Test("An entrypoint that had ended stays ended")
        func endedEntrypoint() async throws {
            try await SupervisedDaemon.run(entrypoint: ["sh", "-c", "echo begun; exit 7"]) { its async throws in
                let target = "/process/session/entrypoint"
                let ended = #""exitCode":7"#
                #expect(try await eventually { try await its.client.call(.GET, target).text.contains(ended) })
                kill(try #require(its.daemon), SIGKILL)
                try await its.awaitAnswer()
                #expect(try await eventually { try await its.client.call(.GET, target).text.contains(ended) })
                #expect(try await !its.client.call(.GET, "\(target)/logs").text.contains("begun"))
            }
        }

        @Test("Daemons that end again and again are given up")
        func tooOften() async throws {
            try await SupervisedDaemon.run(entrypoint: ["sleep", "97534"]) { its async throws in
                var last: pid_t?
                for _ in 0...5 {
                    var next: pid_t?
                    #expect(
                        try await eventually {
                            next = its.daemon
                            return next != nil && next != last
                        }
                    )
                    last = next
                    kill(try #require(next), SIGKILL)
                }
                #expect(try await its.end() == .exited(1))
                #expect(its.log.contains("too often"))
                #expect(processes(holding: "sleep 97534").isEmpty)
            }
        }

        @Test("A bad setting is not tried again")
        func misconfigured() async throws {
            try await SupervisedDaemon.run(variables: ["MARTLET_DAEMON_PORT": "none"], awaitsAnswer: false) {
                its async throws in
                #expect(try await its.end() == .exited(2))
            }
        }
    }
}

/// The executable, started as an engine does.
private struct SupervisedDaemon {
    let client: TestClient
    let supervisor: pid_t
    private let directory: String

    /// What it printed.
    var log: String {
        (try? String(decoding: Data(contentsOf: URL(filePath: "\(directory)/log")), as: UTF8.self)) ?? ""
    }

    /// The static one that `ops/build` made where it is given, else the one that was built with the tests.
    private static let executable =
        EnvironmentStore.ofThisProcess()["MARTLET_TEST_DAEMON"] ?? ".build/debug/martlet-daemon"

    static func run(
        entrypoint: [String] = [],
        variables: [String: String] = [:],
        awaitsAnswer: Bool = true,
        _ body: (SupervisedDaemon) async throws -> Void
    ) async throws {
        let directory = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let port = try freePort()
        var all = EnvironmentStore.ofThisProcess().filter { $0.key == "PATH" }
        all["HOME"] = directory
        all["TMPDIR"] = directory
        all["MARTLET_DAEMON_TOKEN"] = TestClient.token
        all["MARTLET_DAEMON_PORT"] = "\(port)"
        all["MARTLET_SSH_PORT"] = "0"
        all.merge(variables) { $1 }
        let arguments = [executable] + (entrypoint.isEmpty ? [] : ["--"] + entrypoint)
        let supervisor = try spawn(arguments, all.map { "\($0.key)=\($0.value)" }, log: "\(directory)/log")
        let its = SupervisedDaemon(client: TestClient(port: port), supervisor: supervisor, directory: directory)
        do {
            if awaitsAnswer { try await its.awaitAnswer() }
            try await body(its)
        } catch {
            try? await its.stop()
            throw error
        }
        try await its.stop()
    }

    /// The child that is not a keeper; nil while there is none.
    var daemon: pid_t? {
        let ids = ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).compactMap { pid_t($0) }
        return ids.first { id in
            guard let data = try? Data(contentsOf: URL(filePath: "/proc/\(id)/status")) else { return false }
            let status = String(decoding: data, as: UTF8.self)
            return status.hasPrefix("Name:\tmartlet-daemon\n") && status.contains("\nPPid:\t\(supervisor)\n")
                && !status.contains("\nState:\tZ")
        }
    }

    func awaitAnswer() async throws {
        let answers = try await eventually(.seconds(60)) {
            (try? await client.call(.GET, "/version").status) == 200
        }
        try #require(answers, "\(log)")
    }

    /// Waits for the supervisor's end.
    func end() async throws -> ProgramExit {
        var status: CInt = 0
        let ended = try await eventually(.seconds(60)) { waitpid(supervisor, &status, WNOHANG) == supervisor }
        try #require(ended, "\(log)")
        return ProgramExit(waitStatus: status)
    }

    private func stop() async throws {
        var status: CInt = 0
        guard waitpid(supervisor, &status, WNOHANG) == 0 else { return }  // the test has seen its end
        kill(supervisor, SIGTERM)
        #expect(try await end() == .exited(0))
    }

    private static func spawn(_ arguments: [String], _ variables: [String], log: String) throws -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        let argv = arguments.map { strdup($0) } + [nil]
        let envp = variables.map { strdup($0) } + [nil]
        defer { for text in argv + envp { free(text) } }
        var child: pid_t = 0
        let failure = posix_spawn(&child, arguments[0], &actions, nil, argv, envp)
        try #require(failure == 0, "\(arguments[0]): \(describeErrno(failure))")
        return child
    }
}

private func readLink(_ path: String) -> String {
    (try? FileManager.default.destinationOfSymbolicLink(atPath: path)) ?? ""
}
