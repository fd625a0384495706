import ArgumentParser
import FoundationEssentials
import Logging
import Postgres
import Store

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

struct MigrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate",
        abstract: "Bring the database to this version's schema.",
        discussion:
            "The login must own the database and be able to create roles. Forward only; safe to run again and by many at once."
    )

    @OptionGroup var database: DatabaseOptions
    @OptionGroup var service: ServiceOptions
    @Option(help: "Folder of the NNNN_*.sql files; found beside the program when not given. [MARTLET_MIGRATIONS]")
    var migrations: String?

    func run() async throws {
        let directory = try migrations ?? Environment["MARTLET_MIGRATIONS"] ?? Self.findDirectory()
        service.printAndExitIfAsked([
            database.line, SettingLine(flag: "--migrations", variable: "MARTLET_MIGRATIONS", value: directory),
        ])
        let migrator = try Migrator(directory: directory, logger: .component("migrate", level: service.logLevel))
        let applied = try await migrator.migrate(PostgresConfiguration(url: database.url))
        print(applied.isEmpty ? "The schema is up to date." : "Applied \(applied.joined(separator: ", ")).")
    }

    /// `migrations` in a folder above the program, as in a checkout or an installation, or in the working directory.
    private static func findDirectory() throws -> String {
        var folder = URL(filePath: CommandLine.executablePath).deletingLastPathComponent()
        for _ in 0..<5 {
            let candidate = folder.appending(path: "migrations").path
            if FileManager.default.fileExists(atPath: candidate) { return candidate }
            folder.deleteLastPathComponent()
        }
        guard FileManager.default.fileExists(atPath: "migrations") else {
            throw ValidationError(
                "No folder 'migrations' above \(CommandLine.executablePath) or here. Set --migrations."
            )
        }
        return "migrations"
    }
}

extension CommandLine {
    /// The file of the running program.
    static var executablePath: String {
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? arguments[0]
    }
}

/// Which organization and user a key is for; made when they are not there.
struct OwnerOptions: ParsableArguments {
    @Option(help: "Organization, by name.") var organization = "default"
    @Option(help: "Its admin's email address.") var email = "admin@localhost"
    @Option(help: "Region.") var region = "local"
}

struct BootstrapCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bootstrap",
        abstract: "Make what a new installation needs: region, organization, admin, default snapshot, API key.",
        discussion: """
            Prints the API key, which is stored as a hash only and cannot be shown again, on standard output, and all else \
            on standard error. Run again, it keeps what is there and makes a new key of that name in place of the old one.
            """
    )

    @OptionGroup var database: DatabaseOptions
    @OptionGroup var owner: OwnerOptions
    @Option(help: "Image of the default snapshot.") var image: String
    @Option(help: "Name of the default snapshot.") var snapshot = "default"
    @Option(help: "User that processes in it run as; the image's own when not given.") var osUser: String?
    @Option(help: "Name of the key.") var keyName = "admin"

    func run() async throws {
        try await withConnection(PostgresConfiguration(url: database.url)) { connection in
            let bootstrap = Bootstrap(connection)
            try await bootstrap.ensureRegion(owner.region, name: owner.region)
            let (organization, admin) = try await bootstrap.ensureOrganization(
                named: owner.organization,
                region: owner.region,
                adminEmail: owner.email,
                adminName: "Admin"
            )
            try await bootstrap.putGeneralSnapshot(.init(name: snapshot, image: image, osUser: osUser))
            let key = try await bootstrap.createAPIKey(
                organization: organization,
                user: admin,
                name: keyName,
                replacing: true
            )
            printToStandardError(
                "region \(owner.region), organization \(owner.organization), snapshot \(snapshot) = \(image)"
            )
            print(key.text)
        }
    }
}

struct KeyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key",
        abstract: "API keys.",
        subcommands: [Create.self]
    )

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make an API key and print it; it cannot be shown again."
        )

        @OptionGroup var database: DatabaseOptions
        @OptionGroup var owner: OwnerOptions
        @Argument(help: "Name of the key.") var name: String
        @Option(help: "A permission, such as write:sandboxes; may be repeated. All when not given.") var permission:
            [String] = []
        @Option(help: "Days until it expires; never when not given.") var days: Int?

        func run() async throws {
            if let days, days < 1 { throw ValidationError("--days is \(days); the least is 1") }
            try await withConnection(PostgresConfiguration(url: database.url)) { connection in
                let bootstrap = Bootstrap(connection)
                let (organization, user) = try await bootstrap.ensureOrganization(
                    named: owner.organization,
                    region: owner.region,
                    adminEmail: owner.email,
                    adminName: "Admin"
                )
                let key = try await bootstrap.createAPIKey(
                    organization: organization,
                    user: user,
                    name: name,
                    permissions: permission.isEmpty ? ["*"] : permission,
                    expiresAt: days.map { Date.now.addingTimeInterval(Double($0) * 86_400) }
                )
                print(key.text)
            }
        }
    }
}

/// One connection for one command; closed however the command ends.
func withConnection(
    _ configuration: PostgresConfiguration,
    _ body: (PostgresConnection) async throws -> Void
) async throws {
    let connection = try await PostgresConnection.connect(configuration, logger: .silent)
    do {
        try await body(connection)
        await connection.close()
    } catch {
        await connection.close()
        throw error
    }
}

func printToStandardError(_ text: String) {
    let line = "\(text)\n"
    _ = line.utf8.withContiguousStorageIfAvailable { write(2, $0.baseAddress, $0.count) }
}
