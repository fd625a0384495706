import ArgumentParser

@main
struct Martlet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "martlet",
        abstract: "Runs AI-generated code in sandboxes, on your own machines.",
        discussion: """
            A Martlet is four services around one Postgres: api, runner (one per host), proxy and ssh-gateway. Every setting is a \
            flag and an environment variable; the flag wins. `--print-config` shows what is in force and where it came from.
            """,
        version: version,
        groupedSubcommands: [
            CommandGroup(
                name: "Services",
                subcommands: [APICommand.self, RunnerCommand.self, ProxyCommand.self, SSHGatewayCommand.self]
            ),
            CommandGroup(
                name: "Set-up",
                subcommands: [MigrateCommand.self, BootstrapCommand.self, DoctorCommand.self]
            ),
            CommandGroup(name: "Use", subcommands: [KeyCommand.self, SandboxCommand.self]),
        ]
    )

    /// The version that services report; bumped by hand with each release.
    static let version = "0.1.0"
}
