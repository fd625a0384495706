import ArgumentParser
import Logging
import Postgres
import SSHGateway
import ServiceLifecycle
import Store

struct SSHGatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ssh-gateway",
        abstract: "Let users into sandboxes by SSH. Any number may run; behind one address they need the same host key."
    )

    @OptionGroup var database: DatabaseOptions
    @OptionGroup var service: ServiceOptions
    @Option(help: "Address to listen on. [MARTLET_SSH_GATEWAY_LISTEN]")
    var listen = ListenAddress(argument: Environment["MARTLET_SSH_GATEWAY_LISTEN"] ?? "127.0.0.1:3989")!
    @Option(
        help:
            "File with the Ed25519 host key, as ssh-keygen writes it; made when it is not there. [MARTLET_SSH_GATEWAY_HOST_KEY]"
    )
    var hostKey = Environment["MARTLET_SSH_GATEWAY_HOST_KEY"] ?? "/var/lib/martlet/ssh-gateway/ssh_host_ed25519_key"
    @Option(help: "Connections at a time, in all. [MARTLET_SSH_GATEWAY_CONNECTIONS]")
    var connections = Environment.integer("MARTLET_SSH_GATEWAY_CONNECTIONS", default: GatewayLimits().connectionsLimit)

    func run() async throws {
        service.printAndExitIfAsked([
            database.line,
            SettingLine(flag: "--listen", variable: "MARTLET_SSH_GATEWAY_LISTEN", value: listen.description),
            SettingLine(flag: "--host-key", variable: "MARTLET_SSH_GATEWAY_HOST_KEY", value: hostKey),
            SettingLine(flag: "--connections", variable: "MARTLET_SSH_GATEWAY_CONNECTIONS", value: "\(connections)"),
        ])
        guard (1...10_000).contains(connections) else {
            throw ValidationError("--connections is \(connections); it must be between 1 and 10000")
        }
        let log = Logger.component("ssh-gateway", level: service.logLevel)
        let postgres = try PostgresConfiguration(url: database.url, applicationName: "martlet-ssh-gateway")
        let pool = PostgresPool(postgres, logger: log)
        var configuration = SSHGatewayConfiguration(host: listen.host, port: listen.port, hostKeyFile: hostKey)
        configuration.limits.connectionsLimit = connections
        let gateway = try await SSHGatewayService.bind(
            configuration,
            source: DatabaseSSHAccess(pool, listeningWith: postgres, log: log),
            log: log
        )
        try await runServices([PoolService(pool: pool), gateway], log: log)
    }
}
