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
    package var token: String
    package var port: Int
    /// Port of the SSH server on the loopback, once a key is authorised; 0 for any.
    package var sshPort: Int
    package var environment: [String: String]
    package var entrypoint: [String]
    package var workingDirectory: WorkingDirectory
    package var home: String
    /// The sandbox's disk quota, where one is enforced.
    package var diskLimitBytes: Int?
    /// Time between asking programs to end and killing them, when the sandbox stops. Docker kills all after 10 s.
    package var stopGrace: Duration

    /// Reads `MARTLET_DAEMON_TOKEN`, `MARTLET_DAEMON_PORT`, `MARTLET_SSH_PORT`, `MARTLET_DISK_BYTES` and the arguments
    /// after `--`.
    /// - Throws: `ConfigurationError` that names the variable.
    package static func read(arguments: [String], environment: [String: String]) throws -> DaemonConfiguration {
        guard let token = environment["MARTLET_DAEMON_TOKEN"], !token.isEmpty else {
            throw ConfigurationError(message: "MARTLET_DAEMON_TOKEN is not set; the runner sets it for each sandbox")
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
            diskLimitBytes: environment["MARTLET_DISK_BYTES"].flatMap { Int($0) }
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
        token: String,
        port: Int,
        sshPort: Int = 0,
        environment: [String: String],
        entrypoint: [String],
        workingDirectory: WorkingDirectory,
        home: String,
        diskLimitBytes: Int? = nil,
        stopGrace: Duration = .seconds(5)
    ) {
        self.token = token
        self.port = port
        self.sshPort = sshPort
        self.environment = environment
        self.entrypoint = entrypoint
        self.workingDirectory = workingDirectory
        self.home = home
        self.diskLimitBytes = diskLimitBytes
        self.stopGrace = stopGrace
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
    private let entrypoint: Entrypoint
    private let onListening: @Sendable (Int) -> Void

    /// - Parameter onListening: told the port once connections are accepted.
    package init(
        configuration: DaemonConfiguration,
        group: any EventLoopGroup,
        logger: Logger,
        onListening: @escaping @Sendable (Int) -> Void = { _ in }
    ) {
        // A pipe whose reader ended must give EPIPE, not end the daemon.
        signal(SIGPIPE, SIG_IGN)
        self.configuration = configuration
        self.group = group
        self.logger = logger
        self.onListening = onListening
        processes = ProcessTable()
        entrypoint = Entrypoint(arguments: configuration.entrypoint)
    }

    /// Ends all programs as graceful shutdown does first.
    package func stopPrograms() async { await processes.stop(grace: configuration.stopGrace) }

    /// Living trees of processes, for tests and metrics.
    package var processCount: Int { processes.count }

    /// Serves until graceful shutdown: then no program is started any more, all are asked to end, killed after the grace,
    /// and their calls are answered.
    /// - Throws: if the port cannot be listened on, or the server fails.
    package func run() async throws {
        let environment = EnvironmentStore(configuration.environment)
        let ssh = makeSSHServer(environment)
        let application = makeApplication(environment, ssh)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { [self] in
                await entrypoint.run(
                    processes: processes,
                    environment: environment,
                    workingDirectory: configuration.workingDirectory,
                    on: group.next(),
                    logger: logger
                )
            }
            // The server answers what is running before it ends, so the programs are stopped beside it and not after it.
            tasks.addTask { [self] in
                guard (try? await gracefulShutdown()) != nil else { return }
                await stopPrograms()
            }
            let served: Result<Void, any Error>
            do { served = .success(try await application.run()) } catch { served = .failure(error) }
            await stopPrograms()
            await ssh.stop()
            tasks.cancelAll()
            try served.get()
        }
    }

    private func makeSSHServer(_ environment: EnvironmentStore) -> SSHServer {
        let context = SessionContext(
            processes: processes,
            environment: environment,
            workingDirectory: configuration.workingDirectory,
            spoolDirectory: spoolDirectory(environment.current),
            home: configuration.home,
            group: group
        )
        return SSHServer(token: configuration.token, port: configuration.sshPort, context: context, logger: logger)
    }

    private func makeApplication(_ environment: EnvironmentStore, _ ssh: SSHServer) -> some ApplicationProtocol {
        let runner = ProgramRunner(processes: processes, spoolDirectory: spoolDirectory(environment.current))
        let routes = makeRoutes(environment: environment, runner: runner, ssh: ssh)
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
            responder: ToolboxResponder(token: AccessToken(configuration.token), routes: routes, logger: logger),
            server: .http1WithWebSockets(configuration: http),
            configuration: .init(
                address: .hostname("127.0.0.1", port: configuration.port),
                serverName: nil,
                backlog: 1024,
                availableConnectionsDelegate: MaximumAvailableConnections(ServerLimit.connections)
            ),
            onServerRunning: { [onListening] channel in onListening(channel.localAddress?.port ?? 0) },
            eventLoopGroupProvider: .shared(group),
            logger: logger
        )
    }

    private func makeRoutes(environment: EnvironmentStore, runner: ProgramRunner, ssh: SSHServer) -> RouteMap {
        let workingDirectory = configuration.workingDirectory
        var routes = RouteMap()
        addFileRoutes(to: &routes, workingDirectory)
        addInfoRoutes(to: &routes, environment)
        addProcessRoutes(to: &routes, environment, runner)
        addSSHRoutes(to: &routes, ssh)
        addLaterRoutes(to: &routes)
        return routes
    }

    private func addProcessRoutes(to routes: inout RouteMap, _ environment: EnvironmentStore, _ runner: ProgramRunner) {
        let workingDirectory = configuration.workingDirectory
        let execute = ExecuteRoute(runner: runner, environment: environment, workingDirectory: workingDirectory)
        let codeRun = CodeRunRoute(runner: runner, environment: environment, workingDirectory: workingDirectory)
        routes.on(.post, "/process/execute") { try await execute($0) }
        routes.on(.post, "/process/code-run") { try await codeRun($0) }
        routes.on(.get, "/process/session/entrypoint") { [entrypoint] in try await entrypoint.session($0) }
        routes.on(.get, "/process/session/entrypoint/logs") { [entrypoint] in try await entrypoint.logs($0) }
    }

    private func addInfoRoutes(to routes: inout RouteMap, _ environment: EnvironmentStore) {
        let info = InfoRoutes(
            environment: environment,
            workingDirectory: configuration.workingDirectory,
            home: configuration.home
        )
        routes.on(.get, "/version") { try await info.version($0) }
        routes.on(.get, "/work-dir") { try await info.workDirectory($0) }
        routes.on(.get, "/user-home-dir") { try await info.homeDirectory($0) }
        routes.on(.post, "/env") { try await info.updateEnvironment($0) }
        routes.on(.post, "/init") { try await info.initialize($0) }
        let metrics = SystemMetrics(diskLimitBytes: configuration.diskLimitBytes)
        routes.on(.get, "/system/metrics") { try await metrics.answer($0) }
        let ports = PortRoutes(daemonPort: configuration.port)
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

    private func spoolDirectory(_ environment: [String: String]) -> String {
        environment["TMPDIR"].flatMap { $0.hasPrefix("/") ? $0 : nil } ?? "/tmp"
    }
}
