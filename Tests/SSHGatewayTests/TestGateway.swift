import Domain
import FoundationEssentials
import Postgres
import ServiceLifecycle
import Store
import Subprocess
import TestSupport
import Testing

@testable import SSHGateway

/// A live gateway on a port of its own, over a database of its own, logged in as `martlet_ssh_gateway`.
struct TestGateway: Sendable {
    let database: TestDatabase
    let tenant: TestTenant
    let service: SSHGatewayService

    static func with(
        _ adjust: (inout GatewayLimits) -> Void = { _ in },
        _ body: @Sendable @escaping (TestGateway) async throws -> Void
    ) async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let login = try await database.configuration(for: .sshGateway)
            let pool = PostgresPool(login, limits: .init(connectionLimit: 4, minimumIdle: 0), logger: TestStack.logger)
            try await TestDatabase.withRunning(pool) {
                let folder = FileManager.default.temporaryDirectory.appending(path: database.name)
                defer { try? FileManager.default.removeItem(at: folder) }
                var configuration = SSHGatewayConfiguration(
                    host: "127.0.0.1",
                    port: 0,
                    hostKeyFile: folder.appending(path: "key").path
                )
                adjust(&configuration.limits)
                let source = DatabaseSSHAccess(pool, listeningWith: login, log: TestStack.logger)
                let service = try await SSHGatewayService.bind(configuration, source: source, log: TestStack.logger)
                try await run(TestGateway(database: database, tenant: tenant, service: service), body)
            }
        }
    }

    private static func run(
        _ gateway: TestGateway,
        _ body: @Sendable @escaping (TestGateway) async throws -> Void
    ) async throws {
        let group = ServiceGroup(
            configuration: .init(services: [.init(service: gateway.service)], logger: TestStack.logger)
        )
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await group.run() }
            do {
                try await body(gateway)
                await group.triggerGracefulShutdown()
                try await tasks.waitForAll()
            } catch {
                await group.triggerGracefulShutdown()
                try? await tasks.waitForAll()
                throw error
            }
        }
    }

    /// A new token for a sandbox.
    func grant(_ sandbox: SandboxID, minutes: Int = 60) async throws -> SSHToken {
        let token = SSHToken.random()
        let made = try await database.owner.sshAccess.grant(
            token,
            to: sandbox,
            in: tenant.organization,
            minutes: minutes,
            by: Actor("test")
        )
        _ = try #require(made)
        return token
    }

    /// OpenSSH's client, as a user runs it.
    func ssh(_ user: String, _ command: String = "true") async throws -> Ran {
        try await ran(
            "ssh",
            [
                "-F", "none", "-p", "\(service.port)", "-o", "StrictHostKeyChecking=no", "-o",
                "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o",
                "IdentityFile=none",
                "-o", "LogLevel=ERROR", "\(user)@127.0.0.1", command,
            ]
        )
    }
}

/// What a program did.
struct Ran: Sendable {
    var code: Int32
    var output: String
    var errors: String
}

/// Runs a program to its end.
func ran(_ program: String, _ arguments: [String]) async throws -> Ran {
    let done = try await run(
        .name(program),
        arguments: Arguments(arguments),
        output: .string(limit: 1 << 20),
        error: .string(limit: 1 << 20)
    )
    let code: Int32 =
        switch done.terminationStatus {
        case .exited(let code): code
        case .signaled(let number): -number
        }
    return Ran(code: code, output: done.standardOutput, errors: done.standardError)
}

/// Waits until it is so, for a minute at most.
func poll(_ isSo: () async throws -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(60)
    while try await !isSo() {
        guard ContinuousClock.now < deadline else {
            Issue.record("did not become so within 60 s")
            return
        }
        try await Task.sleep(for: .milliseconds(20))
    }
}
