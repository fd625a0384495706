import CLinux
import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdCore
package import Logging
package import NIOCore
import NIOPosix
import ServiceLifecycle
import WebSockets

/// What the daemon is told at start.
package struct DaemonConfiguration: Sendable {
    /// Nil where the runner says it later: see `AccessToken`.
    package var token: String?
    package var port: Int
    /// Port of the SSH server on the loopback, once a key is authorised; 0 for any.
    package var sshPort: Int
    package var environment: [String: String]
    package var entrypoint: [String]
    package var workingDirectory: WorkingDirectory
    package var home: String
    /// Where the web terminal is served; nowhere if nil.
    package var terminalPort: Int?
    /// Time between asking programs to end and killing them, when the sandbox stops. Docker kills all after 10 s.
    package var stopGrace: Duration
    /// Where recordings of terminals are kept: the first of these that can be had.
    package var recordingDirectories: [String]
    package var recordingLimits = RecordingLimits()
    /// Where the sandbox's cgroup is seen.
    package var controlGroupRoot = "/sys/fs/cgroup"

    /// Reads `MARTLET_DAEMON_PORT`, `MARTLET_SSH_PORT`, `MARTLET_DAEMON_TOKEN` (for a daemon without a runner) and the
    /// arguments after `--`.
    /// - Throws: `ConfigurationError` that names the variable.
    package static func read(arguments: [String], environment: [String: String]) throws -> DaemonConfiguration {
        let token = environment["MARTLET_DAEMON_TOKEN"]
        guard token != "" else {
            throw ConfigurationError(
                message: "MARTLET_DAEMON_TOKEN is empty; leave it out to have the runner say the token"
            )
        }
        let port = try Self.port("MARTLET_DAEMON_PORT", in: environment, else: 2280)
        let sshPort = try Self.port("MARTLET_SSH_PORT", in: environment, else: 22)
        let home =
            environment["HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil } ?? Accounts.load().home(of: getuid()) ?? "/"
        var variables = environment
        variables["HOME"] = home
        let entrypoint = arguments.firstIndex(of: "--").map { Array(arguments[($0 + 1)...]) } ?? []
        return DaemonConfiguration(
            token: token,
            port: port,
            sshPort: sshPort,
            environment: variables,
            entrypoint: entrypoint,
            workingDirectory: .atStart(home: home),
            home: home,
            terminalPort: TerminalPage.port
        )
    }

    private static func port(_ name: String, in environment: [String: String], else standard: Int) throws -> Int {
        guard let text = environment[name] else { return standard }
        guard let port = UInt16(text) else {
            throw ConfigurationError(message: "\(name) is '\(text)', not a port between 0 and 65535")
        }
        return Int(port)
    }

    package init(
        token: String?,
        port: Int,
        sshPort: Int = 0,
        environment: [String: String],
        entrypoint: [String],
        workingDirectory: WorkingDirectory,
        home: String,
        terminalPort: Int? = nil,
        stopGrace: Duration = .seconds(5)
    ) {
        self.token = token
        self.port = port
        self.sshPort = sshPort
        self.environment = environment
        self.entrypoint = entrypoint
        self.workingDirectory = workingDirectory
        self.home = home
        self.terminalPort = terminalPort
        self.stopGrace = stopGrace
        recordingDirectories = [
            "/var/lib/martlet/recordings", "\(home)/.local/state/martlet/recordings",
            "/var/tmp/.martlet-recordings-\(getuid())", "/tmp/.martlet-recordings-\(getuid())",
        ]
    }
}

/// A setting that the daemon cannot start with.
package struct ConfigurationError: Error, Sendable {
    package var message: String
}

/// Limits of the daemon's HTTP server.
package enum ServerLimit {
    /// Connections at a time; more wait to be accepted.
    package static let connections = 1024
    /// Descriptors that the daemon asks for: its connections, five for each session, two for each command that left a job.
    package static let descriptors = 1 << 16
    package static let headerBytes = 64 << 10
    package static let headerCount = 200
    /// A connection on which nothing comes for so long is closed: idle ones, and uploads that stall.
    package static let idle = TimeAmount.minutes(10)
}

/// The daemon: toolbox over HTTP on the loopback, and the image's entrypoint.
package struct ToolboxDaemon: Service {
    private let configuration: DaemonConfiguration
    private let logger: Logger
    private let group: any EventLoopGroup
    private let processes: ProcessTable
    private let logs: LogDirectory
    private let recordings: RecordingTable
    private let entrypoint: Entrypoint
    private let token: AccessToken
    private let ownPorts = OwnPorts()
    private let onListening: @Sendable (Int) -> Void
    private let onTerminalListening: @Sendable (Int) -> Void

    /// - Parameter onListening: told the port once connections are accepted.
    package init(
        configuration: DaemonConfiguration,
        group: any EventLoopGroup,
        logger: Logger,
        onListening: @escaping @Sendable (Int) -> Void = { _ in },
        onTerminalListening: @escaping @Sendable (Int) -> Void = { _ in }
    ) {
        self.onTerminalListening = onTerminalListening
        // A pipe whose reader ended must give EPIPE, not end the daemon.
        signal(SIGPIPE, SIG_IGN)
        self.configuration = configuration
        self.group = group
        self.logger = logger
        self.onListening = onListening
        processes = ProcessTable()
        logs = LogDirectory(in: [Self.spoolDirectory(configuration.environment), "/tmp", "/var/tmp", "/dev/shm"])
        recordings = RecordingTable(
            in: configuration.recordingDirectories,
            limits: configuration.recordingLimits,
            logger: logger
        )
        entrypoint = Entrypoint(arguments: configuration.entrypoint, logs: logs)
        token = AccessToken(configuration.token)
    }

    /// Ends all programs as graceful shutdown does first.
    package func stopPrograms() async { await processes.stop(grace: configuration.stopGrace) }

    /// Living trees of processes, for tests and metrics.
    package var processCount: Int { processes.count }

    /// Serves until graceful shutdown: then no program is started any more, all are asked to end, killed after the grace,
    /// and their calls are answered.
    /// - Throws: if the port cannot be listened on, or the server fails.
    package func run() async throws {
        let environment = EnvironmentStore(Legacy.environment ?? configuration.environment)
        let terminals = TerminalTable(
            processes: processes,
            recordings: recordings,
            environment: environment,
            workingDirectory: configuration.workingDirectory
        )
        let ssh = makeSSHServer(environment)
        let application = makeApplication(environment, terminals, ssh)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { [self] in
                await token.waitUntilKnown()
                guard !Task.isCancelled else { return }
                await entrypoint.run(
                    processes: processes,
                    environment: environment,
                    workingDirectory: configuration.workingDirectory,
                    on: group.next(),
                    logger: logger
                )
            }
            tasks.addTask { [self] in await serveTerminalPage(terminals) }
            // The server answers what is running before it ends, so the programs are stopped beside it and not after it.
            tasks.addTask { [self] in
                guard (try? await gracefulShutdown()) != nil else { return }
                await stopPrograms()
            }
            let served: Result<Void, any Error>
            do { served = .success(try await application.run()) } catch { served = .failure(error) }
            await stopPrograms()
            await ssh.stop()
            await recordings.stop()
            tasks.cancelAll()
            try? await onBlockingThread { [logs] in logs.remove() }
            try served.get()
        }
    }

    private func makeSSHServer(_ environment: EnvironmentStore) -> SSHServer {
        let context = SessionContext(
            processes: processes,
            recordings: recordings,
            environment: environment,
            workingDirectory: configuration.workingDirectory,
            spoolDirectory: Self.spoolDirectory(environment.current),
            home: configuration.home,
            group: group
        )
        return SSHServer(
            token: token,
            port: configuration.sshPort,
            ownPorts: ownPorts,
            context: context,
            logger: logger
        )
    }

    /// The web terminal is no reason to fail: a program of the sandbox may have taken its port.
    private func serveTerminalPage(_ terminals: TerminalTable) async {
        guard let port = configuration.terminalPort else { return }
        var routes = RouteMap()
        TerminalPage.addRoutes(to: &routes)
        addTerminalRoutes(to: &routes, terminals)
        let responder = ToolboxResponder(token: token, takesPages: true, routes: routes, logger: logger)
        do {
            try await serve(responder, port: port, onListening: onTerminalListening).run()
        } catch {
            logger.warning("no web terminal", metadata: ["server.port": "\(port)", "error": "\(error)"])
        }
    }

    private func makeApplication(
        _ environment: EnvironmentStore,
        _ terminals: TerminalTable,
        _ ssh: SSHServer
    ) -> some ApplicationProtocol {
        let runner = ProgramRunner(
            processes: processes,
            spoolDirectory: Self.spoolDirectory(environment.current),
            controlGroup: controlGroup
        )
        let routes = makeRoutes(environment: environment, runner: runner, terminals: terminals, ssh: ssh)
        let responder = ToolboxResponder(token: token, routes: routes, logger: logger)
        return serve(responder, port: configuration.port, onListening: onListening)
    }

    private func serve(
        _ responder: ToolboxResponder,
        port: Int,
        onListening: @escaping @Sendable (Int) -> Void
    ) -> some ApplicationProtocol {
        let http = HTTP1Channel.Configuration(
            additionalChannelHandlers: [ConnectionWatcher()],
            idleTimeout: ServerLimit.idle,
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: ServerLimit.headerBytes,
                maxHeaderListSize: ServerLimit.headerBytes,
                maxHeaderFieldCount: ServerLimit.headerCount
            )
        )
        return Application(
            responder: responder,
            server: .http1WithWebSockets(configuration: http),
            configuration: .init(
                address: .hostname("127.0.0.1", port: port),
                serverName: nil,
                backlog: 1024,
                availableConnectionsDelegate: MaximumAvailableConnections(ServerLimit.connections)
            ),
            onServerRunning: { [ownPorts] channel in
                let port = channel.localAddress?.port ?? 0
                ownPorts.insert(port)
                onListening(port)
            },
            eventLoopGroupProvider: .shared(group),
            logger: logger
        )
    }

    private var controlGroup: ControlGroupFiles { ControlGroupFiles(root: configuration.controlGroupRoot) }

    private func makeRoutes(
        environment: EnvironmentStore,
        runner: ProgramRunner,
        terminals: TerminalTable,
        ssh: SSHServer
    ) -> RouteMap {
        let workingDirectory = configuration.workingDirectory
        var routes = RouteMap()
        addFileRoutes(to: &routes, workingDirectory)
        addInfoRoutes(to: &routes, environment)
        addProcessRoutes(to: &routes, environment, runner)
        addTerminalRoutes(to: &routes, terminals)
        addRecordingRoutes(to: &routes, recordings)
        addGitRoutes(
            to: &routes,
            processes: processes,
            environment: environment,
            workingDirectory: workingDirectory
        )
        addInterpreterRoutes(
            to: &routes,
            InterpreterContexts(processes: processes, environment: environment, workingDirectory: workingDirectory)
        )
        addLanguageServerRoutes(to: &routes, makeLanguageServers(environment), workingDirectory)
        addSSHRoutes(to: &routes, ssh)
        addLaterRoutes(to: &routes)
        return routes
    }

    private func makeLanguageServers(_ environment: EnvironmentStore) -> LanguageServerTable {
        LanguageServerTable(
            LanguageServerSurroundings(
                processes: processes,
                environment: environment,
                patience: LanguageServerPatience(),
                loops: group,
                logger: logger
            )
        )
    }

    private func addProcessRoutes(to routes: inout RouteMap, _ environment: EnvironmentStore, _ runner: ProgramRunner) {
        let workingDirectory = configuration.workingDirectory
        let execute = ExecuteRoute(runner: runner, environment: environment, workingDirectory: workingDirectory)
        let codeRun = CodeRunRoute(runner: runner, environment: environment, workingDirectory: workingDirectory)
        routes.on(.post, "/process/execute") { try await execute($0) }
        routes.on(.post, "/process/code-run") { try await codeRun($0) }
        let surroundings = Session.Surroundings(
            processes: processes,
            logs: logs,
            spoolDirectory: runner.spoolDirectory
        )
        let sessions = SessionRoutes(
            surroundings: surroundings,
            environment: environment,
            workingDirectory: workingDirectory
        )
        addSessionRoutes(to: &routes, sessions, entrypoint)
    }

    private func addInfoRoutes(to routes: inout RouteMap, _ environment: EnvironmentStore) {
        let metrics = SystemMetrics(controlGroup)
        if let limit = Legacy.findNumber(.diskLimit) { metrics.setDiskLimit(limit) }
        if let records = Legacy.findNumber(.recording) { recordings.isOn = records == 1 }
        let info = InfoRoutes(
            metrics: metrics,
            recordings: recordings,
            environment: environment,
            workingDirectory: configuration.workingDirectory,
            home: configuration.home
        )
        routes.on(.get, "/version") { try await info.version($0) }
        routes.on(.get, "/work-dir") { try await info.workDirectory($0) }
        routes.on(.get, "/user-home-dir") { try await info.homeDirectory($0) }
        routes.on(.post, "/env") { try await info.updateEnvironment($0) }
        routes.on(.post, InfoRoutes.initialization) { try await info.initialize($0) }
        routes.on(.get, "/system/metrics") { try await metrics.answer($0) }
        let ports = PortRoutes(ownPorts: ownPorts)
        routes.on(.get, "/port") { try await ports.list($0) }
        routes.on(.get, "/port/{port}/in-use") { try await ports.isInUse($0) }
    }

    private func addFileRoutes(to routes: inout RouteMap, _ workingDirectory: WorkingDirectory) {
        let uploads = UploadRoutes(workingDirectory: workingDirectory)
        let downloads = DownloadRoutes(workingDirectory: workingDirectory)
        routes.on(.post, "/files/bulk-upload") { try await uploads.bulk($0) }
        routes.on(.post, "/files/upload-v2") { try await uploads.single($0) }
        routes.on(.get, "/files/download") { try await downloads.single($0) }
        routes.on(.post, "/files/bulk-download") { try await downloads.bulk($0) }
        let files = FileRoutes(workingDirectory: workingDirectory)
        routes.on(.get, "/files") { try await files.list($0) }
        routes.on(.get, "/files/info") { try await files.info($0) }
        routes.on(.post, "/files/folder") { try await files.makeFolder($0) }
        routes.on(.delete, "/files") { try await files.delete($0) }
        routes.on(.post, "/files/move") { try await files.move($0) }
        routes.on(.post, "/files/permissions") { try await files.setPermissions($0) }
        let searches = SearchRoutes(workingDirectory: workingDirectory)
        routes.on(.get, "/files/find") { try await searches.find($0) }
        routes.on(.get, "/files/search") { try await searches.search($0) }
        routes.on(.post, "/files/replace") { try await searches.replace($0) }
    }

    private static func spoolDirectory(_ environment: [String: String]) -> String {
        environment["TMPDIR"].flatMap { $0.hasPrefix("/") ? $0 : nil } ?? "/tmp"
    }
}
