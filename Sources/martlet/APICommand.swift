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
    @Option(
        help:
            "Where clients reach this API, without a slash at the end; whatever host they ask otherwise. [MARTLET_API_PUBLIC_URL]"
    )
    var publicURL: String?
    @Option(help: "Address to serve the same interface at over TLS. [MARTLET_API_TLS_LISTEN]")
    var tlsListen: ListenAddress?
    @Option(help: "Its certificate with the chain, in PEM. [MARTLET_API_TLS_CERTIFICATE]")
    var tlsCertificate: String?
    @Option(help: "The certificate's key, in PEM. [MARTLET_API_TLS_KEY]")
    var tlsKey: String?
    @Option(
        help:
            "Where clients upload the files of builds: https://HOST/api/storage of an API, behind a certificate that they trust. [MARTLET_STORAGE_URL]"
    )
    var storageURL: String?
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
            SettingLine(flag: "--public-url", variable: "MARTLET_API_PUBLIC_URL", value: chosenPublicURL),
            SettingLine(flag: "--tls-listen", variable: "MARTLET_API_TLS_LISTEN", value: chosenTLSListen?.description),
            SettingLine(flag: "--tls-certificate", variable: "MARTLET_API_TLS_CERTIFICATE", value: chosenCertificate),
            SettingLine(flag: "--tls-key", variable: "MARTLET_API_TLS_KEY", value: chosenKey),
            SettingLine(flag: "--storage-url", variable: "MARTLET_STORAGE_URL", value: chosenStorageURL),
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
        configuration.publicURL = chosenPublicURL
        configuration.storageURL = try checkedStorageURL
        configuration.tls = try tls
        let api = try buildAPI(
            configuration,
            APIDependencies(database: pool, databaseConfiguration: postgres, logger: log)
        )
        try await runServices([PoolService(pool: pool)] + api.services, log: log)
    }

    private var chosenPublicURL: String? { publicURL ?? Environment["MARTLET_API_PUBLIC_URL"] }
    private var chosenTLSListen: ListenAddress? {
        tlsListen ?? Environment["MARTLET_API_TLS_LISTEN"].flatMap { ListenAddress(argument: $0) }
    }
    private var chosenCertificate: String? { tlsCertificate ?? Environment["MARTLET_API_TLS_CERTIFICATE"] }
    private var chosenKey: String? { tlsKey ?? Environment["MARTLET_API_TLS_KEY"] }
    private var chosenStorageURL: String? { storageURL ?? Environment["MARTLET_STORAGE_URL"] }

    private var tls: TLSListener? {
        get throws {
            guard let listen = chosenTLSListen else { return nil }
            guard let certificate = chosenCertificate, let key = chosenKey else {
                throw ValidationError("--tls-listen needs --tls-certificate and --tls-key")
            }
            return TLSListener(host: listen.host, port: listen.port, certificatePath: certificate, keyPath: key)
        }
    }

    /// The SDK uploads to nothing but https.
    private var checkedStorageURL: String? {
        get throws {
            guard let url = chosenStorageURL else { return nil }
            guard url.hasPrefix("https://"), !url.hasSuffix("/") else {
                throw ValidationError("--storage-url is \(url); it must begin with https:// and not end in a slash")
            }
            return url
        }
    }
}
