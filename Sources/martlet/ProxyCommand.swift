import ArgumentParser
import Logging
import Postgres
import Proxy
import ServiceLifecycle
import Store
import UnixSignals

struct ProxyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "proxy",
        abstract: "Serve traffic to sandboxes. Any number may run."
    )

    @OptionGroup var database: DatabaseOptions
    @OptionGroup var service: ServiceOptions
    @Option(help: "Address to listen on. [MARTLET_PROXY_LISTEN]")
    var listen = ListenAddress(argument: Environment["MARTLET_PROXY_LISTEN"] ?? "127.0.0.1:3987")!

    @Option(help: ArgumentHelp(Settings.handoverHelp))
    var handoverDir: String?

    private var handoverFolder: String? { handoverDir ?? Environment[Settings.handoverVariable] }

    func run() async throws {
        service.printAndExitIfAsked([
            database.line, SettingLine(flag: "--listen", variable: "MARTLET_PROXY_LISTEN", value: listen.description),
            SettingLine(flag: "--handover-dir", variable: Settings.handoverVariable, value: handoverFolder),
        ])
        let log = Logger.component("proxy", level: service.logLevel)
        let postgres = try PostgresConfiguration(url: database.url, applicationName: "martlet-proxy")
        let pool = PostgresPool(postgres, logger: log)
        var configuration = ProxyConfiguration(host: listen.host, port: listen.port)
        configuration.handoverFolder = handoverFolder
        let proxy = try await ProxyService.bind(
            configuration,
            source: DatabaseRouteSource(pool, listeningWith: postgres, log: log),
            log: log
        )
        try await runServices([PoolService(pool: pool), proxy], log: log)
    }
}

/// Runs services in dependency order until SIGTERM or SIGINT, then stops them last first.
func runServices(_ services: [any Service], log: Logger) async throws {
    let group = ServiceGroup(
        configuration: ServiceGroupConfiguration(
            services: services,
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: log
        )
    )
    try await group.run()
}
