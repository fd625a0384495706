import API
import ArgumentParser
import Logging
import Postgres
import ServiceLifecycle
import Store

struct APICommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "api",
        abstract: "Serve the REST interface. Any number may run."
    )

    @OptionGroup var database: DatabaseOptions
    @OptionGroup var service: ServiceOptions
    @Option(help: "Address to listen on. [MARTLET_API_LISTEN]")
    var listen = ListenAddress(argument: Environment["MARTLET_API_LISTEN"] ?? "127.0.0.1:3986")!
    @Option(help: "Where clients reach the proxy, without a slash at the end. [MARTLET_PROXY_PUBLIC_URL]")
    var proxyPublicURL = Environment["MARTLET_PROXY_PUBLIC_URL"] ?? "http://127.0.0.1:3987"
    @Option(help: "Where users reach the SSH gateway, host:port. [MARTLET_SSH_GATEWAY_PUBLIC]")
    var sshGatewayPublic = ListenAddress(argument: Environment["MARTLET_SSH_GATEWAY_PUBLIC"] ?? "127.0.0.1:3989")!
    @Option(help: "Snapshot for a sandbox that names none. [MARTLET_DEFAULT_SNAPSHOT]")
    var defaultSnapshot = Environment["MARTLET_DEFAULT_SNAPSHOT"] ?? "default"
    @Option(help: "Region for a sandbox that names none, where its organization has no default. [MARTLET_REGION]")
    var region: String?
    @Option(help: "Connections to Postgres. [MARTLET_DATABASE_CONNECTIONS]")
    var databaseConnections = Environment.integer("MARTLET_DATABASE_CONNECTIONS", default: 10)

    /// An operator who leaves a transaction open in psql holds up requests for what it changed, each for so long, and not
    /// every connection for as long as a statement may take.
    private static let lockDeadline: Duration = .seconds(3)

    func run() async throws {
        service.printAndExitIfAsked([
            database.line,
            SettingLine(flag: "--listen", variable: "MARTLET_API_LISTEN", value: listen.description),
            SettingLine(flag: "--proxy-public-url", variable: "MARTLET_PROXY_PUBLIC_URL", value: proxyPublicURL),
            SettingLine(
                flag: "--ssh-gateway-public",
                variable: "MARTLET_SSH_GATEWAY_PUBLIC",
                value: sshGatewayPublic.description
            ),
            SettingLine(flag: "--default-snapshot", variable: "MARTLET_DEFAULT_SNAPSHOT", value: defaultSnapshot),
            SettingLine(flag: "--region", variable: "MARTLET_REGION", value: region ?? Environment["MARTLET_REGION"]),
            SettingLine(
                flag: "--database-connections",
                variable: "MARTLET_DATABASE_CONNECTIONS",
                value: "\(databaseConnections)"
            ),
            .secretsKey,
        ])
        guard (2...1000).contains(databaseConnections) else {
            throw ValidationError("--database-connections is \(databaseConnections); it must be between 2 and 1000")
        }
        let log = Logger.component("api", level: service.logLevel)
        var postgres = try PostgresConfiguration(url: database.url, applicationName: "martlet-api")
        postgres.lockDeadline = Self.lockDeadline
        let pool = PostgresPool(postgres, limits: .init(connectionLimit: databaseConnections), logger: log)
        var configuration = APIConfiguration(
            host: listen.host,
            port: listen.port,
            toolboxProxyURL: "\(proxyPublicURL)/toolbox",
            sshGateway: SSHGatewayAddress(host: sshGatewayPublic.host, port: sshGatewayPublic.port),
            defaultRegion: region ?? Environment["MARTLET_REGION"],
            defaultSnapshot: defaultSnapshot,
            version: Martlet.version
        )
        configuration.secrets = try SecretBox.ofEnvironment()
        let api = buildAPI(configuration, APIDependencies(database: pool, databaseConfiguration: postgres, logger: log))
        try await runServices([PoolService(pool: pool)] + api.services, log: log)
    }
}
