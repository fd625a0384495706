package import Docker
package import Domain
import Firewall
import NIOCore
package import Logging
package import Postgres
import ServiceLifecycle
import Reconciling
import Store
import Synchronization

/// The runner of one host: everything between its rows in the database and its engine.
///
/// Order at the start: database and engine answer; what runs already is adopted, rules first; the ingress listens; the runner
/// registers; passes begin. At a graceful shutdown no pass begins any more, running ones end, and sandboxes go on running.
package struct RunnerService: Service {
    /// Version of what runner, proxy and database agree upon.
    package static let protocolVersion = 1

    private let configuration: RunnerConfiguration
    private let database: PostgresConfiguration
    private let engine: DockerHost
    private let logger: Logger
    private let onReady: @Sendable (RunnerReady) -> Void

    /// Does no I/O.
    ///
    /// - Parameters:
    ///   - database: with this runner's own login, as `create_runner` made it.
    ///   - onReady: called once, when the runner has registered and works.
    package init(
        _ configuration: RunnerConfiguration,
        database: PostgresConfiguration,
        engine: DockerHost,
        logger: Logger,
        onReady: @escaping @Sendable (RunnerReady) -> Void = { _ in }
    ) {
        self.configuration = configuration
        self.database = database
        self.engine = engine
        self.logger = logger
        self.onReady = onReady
    }

    /// Works until graceful shutdown or cancellation. Throws only what the operator must change: `RunnerError.misconfigured`,
    /// `.stateDirectory`; or a taken port.
    package func run() async throws {
        let client = DockerEngine(host: engine, logger: logger)
        let pool = PostgresPool(
            database,
            limits: .init(connectionLimit: Self.connectionsLimit, minimumIdle: 2),
            logger: logger
        )
        do {
            try await withRunning(pool) { try await work(client, pool) }
        } catch is CancellationError {
            logger.info("runner stops; its sandboxes go on running")
        } catch {
            try? await client.shutdown()
            throw error
        }
        try? await client.shutdown()
    }

    /// Passes, and a few loops of their own.
    private static let connectionsLimit = 16

    private func withRunning(_ pool: PostgresPool, _ body: @escaping @Sendable () async throws -> Void) async throws {
        try await withThrowingDiscardingTaskGroup { group in
            group.addTask { await pool.run() }
            defer { pool.shutDown() }
            try await body()
        }
    }

    private func work(_ client: DockerEngine, _ pool: PostgresPool) async throws {
        let (loops, ingress) = try await cancelWhenGracefulShutdown { try await prepare(client, pool) }
        try await loops.run(ingress: ingress) {
            onReady(RunnerReady(identity: loops.identity.id, ingressAddress: loops.registration.ingressAddress))
        }
    }

    /// Reads who and where this is, and listens.
    private func prepare(_ client: DockerEngine, _ pool: PostgresPool) async throws -> (RunnerLoops, IngressServer) {
        let directory = try StateDirectory(configuration.stateDirectory)
        let daemon = try directory.installDaemon(from: configuration.daemonPath)
        let queries = RunnerQueries(pool)
        let identity = try await identify(queries)
        var logger = logger
        logger[metadataKey: "runner.name"] = "\(identity.name)"
        let facts = HostFacts.read(
            try await untilAnswered("the engine") { try await client.information() },
            configuration
        )
        for warning in facts.engine.warnings {
            logger.warning("host lacks a protection", metadata: ["host.warning": "\(warning)"])
        }
        let addresses = try AddressPlan(subnet: configuration.subnet)
        var blueprint = ContainerBlueprint(
            runner: identity.id,
            network: configuration.bridge,
            addresses: addresses,
            daemon: daemon,
            host: facts,
            limits: configuration.limits,
            runtime: configuration.runtime
        )
        blueprint.volumes = VolumeFolders(root: configuration.volumesFolder)
        let table = ContainerTable(engine: client, runner: identity.id)
        let parts = try RunnerParts(
            queries: queries,
            engine: client,
            kernel: KernelFirewall(logger: logger),
            blueprint: blueprint,
            configuration: configuration,
            table: table,
            logger: logger
        )
        try await parts.volumes?.prepare()
        let secret = try directory.secret()
        var door = IngressConfiguration(
            host: configuration.ingressHost,
            port: configuration.ingressPort,
            secret: secret
        )
        door.handoverFolder = configuration.handoverFolder
        let ingress = try await IngressServer.bind(
            door,
            identity: try IngressIdentity.load(from: directory.path),
            dialing: table,
            log: logger
        )
        var registration = facts.registration(configuration, slots: addresses.slots)
        registration.ingressAddress = configuration.ingressAdvertised ?? Self.text(ingress.address, configuration)
        registration.tlsFingerprint = ingress.fingerprint
        registration.ingressSecret = secret
        let loops = RunnerLoops(
            parts: parts,
            identity: identity,
            registration: registration,
            database: database,
            directory: directory
        )
        return (loops, ingress)
    }

    /// Waits for the database. Throws `misconfigured` when it answers that this login is no runner's.
    private func identify(_ queries: RunnerQueries) async throws -> RunnerIdentity {
        let found = try await untilAnswered("the database") { try await queries.identity() }
        guard let found else {
            throw RunnerError(
                .misconfigured,
                "the database login \(database.user ?? "") is not a runner's; create one with: martlet runner create --name NAME"
            )
        }
        return found
    }

    /// Tries until it works; whoever starts before what it needs has to wait.
    private func untilAnswered<Value: Sendable>(_ what: String, _ body: () async throws -> Value) async throws -> Value
    {
        var pause = Duration.milliseconds(200)
        while true {
            do {
                return try await body()
            } catch {
                try Task.checkCancellation()
                logger.warning("waiting for \(what)", metadata: ["error": "\(error)"])
            }
            try await Task.sleep(for: pause)
            pause = min(pause * 2, .seconds(5))
        }
    }

    private static func text(_ address: SocketAddress, _ configuration: RunnerConfiguration) -> String {
        "\(address.ipAddress ?? configuration.ingressHost):\(address.port ?? configuration.ingressPort)"
    }
}

/// What is known once a runner works.
package struct RunnerReady: Sendable, Hashable {
    package let identity: RunnerID
    package let ingressAddress: String
}
