import ArgumentParser
import Docker
import Firewall
import FoundationEssentials
import Logging
import Postgres
import Runner
import ServiceLifecycle
import Store

struct RunnerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "runner",
        abstract: "Run this host's sandboxes. One per host; its login names it.",
        subcommands: [Run.self, Create.self],
        defaultSubcommand: Run.self
    )

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a runner and its own Postgres login; print the URL to start it with.",
            discussion: "Run as the database's owner. For a name that exists, the login gets a new password."
        )

        @OptionGroup var database: DatabaseOptions
        @Option(help: "Name of the runner, such as the host's.") var name: String
        @Option(help: "Region it stands in.") var region = "local"

        func run() async throws {
            let url = try database.url
            try await withConnection(PostgresConfiguration(url: url)) { connection in
                let (_, login) = try await Bootstrap(connection).createRunner(named: name, region: region)
                print(Self.url(url, with: login))
            }
        }

        /// The same server and database, another login.
        static func url(_ url: String, with login: Bootstrap.Login) -> String {
            guard let scheme = url.firstRange(of: "://") else { return url }
            let rest = url[scheme.upperBound...]
            let server = rest.lastIndex(of: "@").map { rest[rest.index(after: $0)...] } ?? rest
            return "\(url[..<scheme.upperBound])\(login.role):\(login.password)@\(server)"
        }
    }

    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "run", abstract: "Run the runner (the default).")

        @OptionGroup var database: DatabaseOptions
        @OptionGroup var service: ServiceOptions
        @OptionGroup var host: RunnerOptions
        @OptionGroup var volumes: VolumeOptions

        func run() async throws {
            service.printAndExitIfAsked([database.line] + host.lines + volumes.lines)
            let log = Logger.component("runner", level: service.logLevel)
            let postgres = try PostgresConfiguration(url: database.url, applicationName: "martlet-runner")
            var configuration = try host.configuration
            configuration.volumes = try volumes.storage
            let runner = RunnerService(
                configuration,
                database: postgres,
                engine: try DockerHost(parsing: host.dockerHost),
                logger: log
            )
            try await runServices([runner], log: log)
        }
    }
}

struct RunnerOptions: ParsableArguments {
    @Option(help: "Docker Engine's socket. [MARTLET_DOCKER_HOST]")
    var dockerHost = Environment["MARTLET_DOCKER_HOST"] ?? Environment["DOCKER_HOST"] ?? "unix:///var/run/docker.sock"

    @Option(help: "The static martlet-daemon that goes into every sandbox. [MARTLET_DAEMON_PATH]")
    var daemon = Environment["MARTLET_DAEMON_PATH"] ?? "/usr/local/lib/martlet/martlet-daemon"

    @Option(help: "Folder for this runner's certificate and secret; nobody else may read it. [MARTLET_STATE_DIR]")
    var stateDir = Environment["MARTLET_STATE_DIR"] ?? "/var/lib/martlet/runner"

    @Option(help: "Address that proxies connect to. [MARTLET_RUNNER_INGRESS_LISTEN]")
    var ingressListen = ListenAddress(argument: Environment["MARTLET_RUNNER_INGRESS_LISTEN"] ?? "127.0.0.1:3988")!

    @Option(help: "The same as proxies see it, if that is another. [MARTLET_RUNNER_INGRESS_ADDRESS]")
    var ingressAddress: String?

    @Option(help: ArgumentHelp(Settings.handoverHelp))
    var handoverDir: String?

    @Option(help: "Network of the sandboxes' bridge. [MARTLET_RUNNER_SUBNET]")
    var subnet = Environment["MARTLET_RUNNER_SUBNET"] ?? "10.88.0.0/16"

    @Option(
        help: "Name of that bridge, at most \(RunnerConfiguration.bridgeNameLimit) characters. [MARTLET_RUNNER_BRIDGE]"
    )
    var bridge = Environment["MARTLET_RUNNER_BRIDGE"] ?? "martlet0"

    @Option(
        help: "Private ranges that sandboxes may reach, comma-separated; none otherwise. [MARTLET_RUNNER_ALLOW_PRIVATE]"
    )
    var allowPrivate = Environment["MARTLET_RUNNER_ALLOW_PRIVATE"] ?? ""

    @Option(help: "DNS servers of the sandboxes, comma-separated; the host's otherwise. [MARTLET_RUNNER_RESOLVERS]")
    var resolver = Environment["MARTLET_RUNNER_RESOLVERS"] ?? ""

    @Option(help: "OCI runtime: runc, runsc, kata, sysbox; the engine's default otherwise. [MARTLET_RUNNER_RUNTIME]")
    var runtime: String?

    @Option(help: "How many times its cores this host may promise. [MARTLET_RUNNER_CPU_OVERCOMMIT]")
    var cpuOvercommit = Environment["MARTLET_RUNNER_CPU_OVERCOMMIT"].flatMap(Double.init) ?? Overcommit().cpu

    @Option(help: "How many times its memory. [MARTLET_RUNNER_MEMORY_OVERCOMMIT]")
    var memoryOvercommit = Environment["MARTLET_RUNNER_MEMORY_OVERCOMMIT"].flatMap(Double.init) ?? Overcommit().memory

    @Option(help: "How many times its disk. [MARTLET_RUNNER_DISK_OVERCOMMIT]")
    var diskOvercommit = Environment["MARTLET_RUNNER_DISK_OVERCOMMIT"].flatMap(Double.init) ?? Overcommit().disk

    @Option(help: "Martlet's own registry for images of snapshots, http(s)://host[:port]. [MARTLET_REGISTRY_URL]")
    var registryURL: String?

    @Option(help: "Login for it; its password comes in MARTLET_REGISTRY_PASSWORD only. [MARTLET_REGISTRY_USERNAME]")
    var registryUsername: String?

    private var chosenRegistry: String? { registryURL ?? Environment["MARTLET_REGISTRY_URL"] }
    private var chosenRegistryUsername: String? { registryUsername ?? Environment["MARTLET_REGISTRY_USERNAME"] }
    private var advertised: String? { ingressAddress ?? Environment["MARTLET_RUNNER_INGRESS_ADDRESS"] }
    private var handoverFolder: String? { handoverDir ?? Environment[Settings.handoverVariable] }
    private var chosenRuntime: String? { runtime ?? Environment["MARTLET_RUNNER_RUNTIME"] }

    var lines: [SettingLine] {
        [
            SettingLine(flag: "--docker-host", variable: "MARTLET_DOCKER_HOST", value: dockerHost),
            SettingLine(flag: "--daemon", variable: "MARTLET_DAEMON_PATH", value: daemon),
            SettingLine(flag: "--state-dir", variable: "MARTLET_STATE_DIR", value: stateDir),
            SettingLine(
                flag: "--ingress-listen",
                variable: "MARTLET_RUNNER_INGRESS_LISTEN",
                value: ingressListen.description
            ),
            SettingLine(flag: "--ingress-address", variable: "MARTLET_RUNNER_INGRESS_ADDRESS", value: advertised),
            SettingLine(flag: "--handover-dir", variable: Settings.handoverVariable, value: handoverFolder),
            SettingLine(flag: "--subnet", variable: "MARTLET_RUNNER_SUBNET", value: subnet),
            SettingLine(flag: "--bridge", variable: "MARTLET_RUNNER_BRIDGE", value: bridge),
            SettingLine(flag: "--allow-private", variable: "MARTLET_RUNNER_ALLOW_PRIVATE", value: allowPrivate),
            SettingLine(flag: "--resolver", variable: "MARTLET_RUNNER_RESOLVERS", value: resolver),
            SettingLine(flag: "--runtime", variable: "MARTLET_RUNNER_RUNTIME", value: chosenRuntime),
            SettingLine(flag: "--registry-url", variable: "MARTLET_REGISTRY_URL", value: chosenRegistry),
            SettingLine(
                flag: "--registry-username",
                variable: "MARTLET_REGISTRY_USERNAME",
                value: chosenRegistryUsername
            ),
            SettingLine(
                flag: "(none)",
                variable: "MARTLET_REGISTRY_PASSWORD",
                value: Environment["MARTLET_REGISTRY_PASSWORD"],
                isSecret: true
            ),
            .secretsKey,
            SettingLine(flag: "--cpu-overcommit", variable: "MARTLET_RUNNER_CPU_OVERCOMMIT", value: "\(cpuOvercommit)"),
            SettingLine(
                flag: "--memory-overcommit",
                variable: "MARTLET_RUNNER_MEMORY_OVERCOMMIT",
                value: "\(memoryOvercommit)"
            ),
            SettingLine(
                flag: "--disk-overcommit",
                variable: "MARTLET_RUNNER_DISK_OVERCOMMIT",
                value: "\(diskOvercommit)"
            ),
        ]
    }

    var configuration: RunnerConfiguration {
        get throws {
            for (flag, factor) in [
                ("--cpu-overcommit", cpuOvercommit), ("--memory-overcommit", memoryOvercommit),
                ("--disk-overcommit", diskOvercommit),
            ] where !(0.1...1000).contains(factor) {
                throw ValidationError("\(flag) is \(factor); it must be between 0.1 and 1000")
            }
            var configuration = try RunnerConfiguration(daemonPath: daemon, stateDirectory: stateDir)
            configuration.version = Martlet.version
            configuration.ingressHost = ingressListen.host
            configuration.ingressPort = ingressListen.port
            configuration.ingressAdvertised = advertised
            configuration.handoverFolder = handoverFolder
            configuration.subnet = try IPv4Range(parsing: subnet)
            configuration.bridge = bridge
            configuration.allowedPrivateRanges = try list(allowPrivate).map { try IPv4Range(parsing: $0) }
            configuration.resolvers = try list(resolver).map { try IPv4Address(parsing: $0) }
            configuration.runtime = chosenRuntime
            configuration.registry = try chosenRegistry.map {
                try RegistryAccess(
                    url: $0,
                    username: chosenRegistryUsername ?? "",
                    password: Environment["MARTLET_REGISTRY_PASSWORD"] ?? ""
                )
            }
            configuration.secrets = try SecretBox.ofEnvironment()
            configuration.overcommit.cpu = cpuOvercommit
            configuration.overcommit.memory = memoryOvercommit
            configuration.overcommit.disk = diskOvercommit
            return configuration
        }
    }

    private func list(_ text: String) -> [String] {
        text.split(separator: ",").map { $0.trimming(while: \.isWhitespace) }
    }
}

extension Substring {
    fileprivate func trimming(while predicate: (Character) -> Bool) -> String {
        String(drop(while: predicate).reversed().drop(while: predicate).reversed())
    }
}
