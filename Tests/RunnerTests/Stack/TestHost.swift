import Docker
import Domain
import Firewall
import FoundationEssentials
import Logging
import Postgres
import Reconciling
import Runner
import ServiceLifecycle
import Store
import Synchronization
import TestSupport

/// A runner's surroundings for one test: a database, a login, an engine, a bridge and chains of its own; all gone afterwards.
struct TestHost: Sendable {
    let database: TestDatabase
    let tenant: TestTenant
    let runner: RunnerID
    let login: PostgresConfiguration
    let engine: DockerEngine
    let engineHost: DockerHost
    let configuration: RunnerConfiguration

    static func with(_ body: (TestHost) async throws -> Void) async throws {
        let engineHost = try DockerHost(parsing: try TestStack.environment("MARTLET_TEST_DOCKER_HOST"))
        let image = try TestStack.environment("MARTLET_TEST_IMAGE")
        let settings = try configuration()
        let engine = DockerEngine(host: engineHost, logger: TestStack.logger)
        do {
            try await TestDatabase.with { database in
                let tenant = try await database.makeTenant(image: image)
                let (id, login) = try await Bootstrap(database.owner).createRunner(named: "host", region: tenant.region)
                await database.own(role: login.role)
                let host = TestHost(
                    database: database,
                    tenant: tenant,
                    runner: id,
                    login: database.configuration(role: login.role, password: login.password),
                    engine: engine,
                    engineHost: engineHost,
                    configuration: settings
                )
                do {
                    try await body(host)
                    try await host.clean()
                } catch {
                    try? await host.clean()
                    throw error
                }
            }
            try await engine.shutdown()
        } catch {
            try? await engine.shutdown()
            throw error
        }
    }

    /// Suites run beside one another, and the engine makes no two networks whose addresses overlap. Begins anywhere, for who
    /// else tests on this machine.
    private static let lastPlace = Mutex(UInt8.random(in: 1...250))

    private static func nextPlace() -> UInt8 {
        lastPlace.withLock { last in
            last = last % 250 + 1
            return last
        }
    }

    private static func configuration() throws -> RunnerConfiguration {
        var configuration = try RunnerConfiguration(
            daemonPath: try TestStack.environment("MARTLET_TEST_DAEMON"),
            stateDirectory: "/tmp/martlet-test-\(UInt32.random(in: 0 ... .max))"
        )
        let place = nextPlace()
        configuration.subnet = try IPv4Range(parsing: "10.201.\(place).0/24")
        configuration.bridge = "mt\(place)g\(UInt16.random(in: 0 ... .max))"
        configuration.ingressHost = "127.0.0.1"
        configuration.ingressPort = 0
        configuration.limits.stopGrace = .seconds(2)
        configuration.pace.resyncInterval = .seconds(1)
        configuration.pace.orphanGrace = .seconds(1)
        configuration.pace.timerInterval = .milliseconds(500)
        configuration.pace.reclaimInterval = .milliseconds(500)
        return configuration
    }

    /// Another runner of the same region and engine, with a login, a bridge and a state directory of its own.
    func withNeighbour(_ body: (TestHost) async throws -> Void) async throws {
        let (id, login) = try await Bootstrap(database.owner).createRunner(named: "neighbour", region: tenant.region)
        await database.own(role: login.role)
        let neighbour = TestHost(
            database: database,
            tenant: tenant,
            runner: id,
            login: database.configuration(role: login.role, password: login.password),
            engine: engine,
            engineHost: engineHost,
            configuration: try Self.configuration()
        )
        do {
            try await body(neighbour)
            try await neighbour.clean()
        } catch {
            try? await neighbour.clean()
            throw error
        }
    }

    var kernel: KernelFirewall { KernelFirewall(logger: TestStack.logger) }
    var tag: ChainTag { get throws { try ChainTag(RunnerParts.firewallTag(of: runner)) } }

    private func clean() async throws {
        for container in try await containers() { try? await engine.removeContainer(container.id, force: true) }
        try? await engine.removeNetwork(configuration.bridge)
        try await kernel.remove(tag: try tag)
        try? FileManager.default.removeItem(atPath: configuration.stateDirectory)
    }

    // MARK: - The whole service

    /// Runs the service for the time of `body`, as a process of it would run; ends it as `kill` would: by cancellation.
    func withService(
        engine: DockerHost? = nil,
        gracefully: Bool = false,
        _ adjust: (inout RunnerConfiguration) -> Void = { _ in },
        _ body: () async throws -> Void
    ) async throws {
        var configuration = configuration
        adjust(&configuration)
        let (ready, isReady) = AsyncStream<Void>.makeStream()
        let service = RunnerService(
            configuration,
            database: login,
            engine: engine ?? engineHost,
            logger: TestStack.logger
        ) { _ in
            isReady.yield()
        }
        let group = ServiceGroup(services: [service], logger: TestStack.logger)
        // Owned: ended and awaited on both ways out.
        let running = Task {
            defer { isReady.finish() }
            try await group.run()
        }
        do {
            for await _ in ready { break }
            try await body()
            if gracefully { await group.triggerGracefulShutdown() } else { running.cancel() }
            try await running.value
        } catch {
            running.cancel()
            _ = try? await running.value
            throw error
        }
    }

    // MARK: - Single passes

    /// Gives the parts of a runner that has registered, for passes by hand.
    func withParts(_ body: (RunnerParts) async throws -> Void) async throws {
        let pool = PostgresPool(login, limits: .init(connectionLimit: 4, minimumIdle: 0), logger: TestStack.logger)
        let directory = try StateDirectory(configuration.stateDirectory)
        let facts = HostFacts.read(try await engine.information(), configuration)
        let addresses = try AddressPlan(subnet: configuration.subnet)
        let blueprint = ContainerBlueprint(
            runner: runner,
            network: configuration.bridge,
            addresses: addresses,
            daemon: try directory.installDaemon(from: configuration.daemonPath),
            host: facts,
            limits: configuration.limits,
            runtime: nil
        )
        let parts = try RunnerParts(
            queries: RunnerQueries(pool),
            engine: engine,
            kernel: kernel,
            blueprint: blueprint,
            configuration: configuration,
            table: ContainerTable(engine: engine, runner: runner),
            logger: TestStack.logger
        )
        // Owned: cancelled and awaited on both ways out.
        let firewall = Task { await parts.firewall.run() }
        do {
            try await TestDatabase.withRunning(pool) {
                var registration = facts.registration(configuration, slots: addresses.slots)
                registration.ingressAddress = "127.0.0.1:1"
                registration.tlsFingerprint = String(repeating: "0", count: 64)
                registration.ingressSecret = try directory.secret()
                try await parts.queries.register(registration)
                try await parts.queries.renewLease(for: .seconds(600))
                try await parts.network.ensure()
                try await body(parts)
            }
        } catch {
            firewall.cancel()
            await firewall.value
            await parts.close()
            throw error
        }
        firewall.cancel()
        await firewall.value
        await parts.close()
    }

    // MARK: - What is

    func containers() async throws -> [ContainerSummary] {
        try await engine.listContainers(labels: [ContainerLabel.runner: "\(runner)"])
    }

    func container(_ id: SandboxID) async throws -> ContainerInspection {
        let found = try await containers().first { $0.labels[ContainerLabel.sandbox] == "\(id)" }
        guard let found else { throw Unexpected("sandbox \(id) has no container") }
        return try await engine.inspectContainer(found.id)
    }

    func chains() async throws -> [String] {
        try await kernel.observe(tag: try tag).sandboxes(tag: try tag).map(\.sandbox)
    }

    func sandbox(_ id: SandboxID) async throws -> SandboxRecord? {
        try await database.owner.sandboxes.find(id, in: tenant.organization)
    }

    /// Waits until the sandbox, as its owner sees it, is in `state`.
    @discardableResult
    func wait(
        _ id: SandboxID,
        for state: PublicState,
        within limit: Duration = .seconds(60),
        where isRight: (SandboxRecord) -> Bool = { _ in true }
    ) async throws -> SandboxRecord {
        var last = "absent"
        let deadline = ContinuousClock.now + limit
        while ContinuousClock.now < deadline {
            if let found = try await sandbox(id) {
                if found.state == state, isRight(found) { return found }
                last = "\(found.state) \(found.errorReason ?? "")"
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw Unexpected("sandbox \(id) is \(last), not \(state), after \(limit)")
    }

    /// Waits until nothing of the sandbox is left: row's placement, container, rules.
    func waitUntilGone(_ id: SandboxID, within limit: Duration = .seconds(60)) async throws {
        try await eventually("nothing is left of \(id)", within: limit) {
            let placed =
                try await database.owner.queryFirst("SELECT FROM sandbox_placement WHERE sandbox_id = \(id)") != nil
            let held = try await containers().contains { $0.labels[ContainerLabel.sandbox] == "\(id)" }
            let ruled = try await chains().contains("\(id)")
            return !placed && !held && !ruled
        }
    }

    /// As if this runner had held its lease for an hour: what waits for it to be back for a while may happen.
    func holdLease() async throws {
        try await database.owner.execute(
            "UPDATE runner_lease SET held_since = now() - interval '1 hour' WHERE runner_id = \(runner)"
        )
    }

    func want(_ id: SandboxID, _ desired: DesiredState) async throws {
        try await database.owner.execute("UPDATE sandbox SET desired_state = \(desired) WHERE id = \(id)")
    }

    func eventually(_ what: String, within limit: Duration = .seconds(60), _ check: () async throws -> Bool)
        async throws
    {
        let deadline = ContinuousClock.now + limit
        while ContinuousClock.now < deadline {
            if try await check() { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw Unexpected("not within \(limit): \(what)")
    }
}

struct Unexpected: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
