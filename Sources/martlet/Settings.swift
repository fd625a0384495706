import ArgumentParser
import FoundationEssentials
import Store

/// Reads the defaults of flags from the environment, once, at start.
enum Environment {
    static let values = ProcessInfo.processInfo.environment

    /// The variable's value; an empty one counts as not set.
    static subscript(_ name: String) -> String? {
        values[name].flatMap { $0.isEmpty ? nil : $0 }
    }

    static func integer(_ name: String, default fallback: Int) -> Int {
        self[name].flatMap { Int($0) } ?? fallback
    }
}

/// What two commands share.
enum Settings {
    static let handoverVariable = "MARTLET_HANDOVER_DIR"
    static let handoverHelp = "Folder where runner and proxies of one host meet; none otherwise. [\(handoverVariable)]"
}

/// One line of `--print-config`.
struct SettingLine {
    let flag: String
    let variable: String
    let value: String?
    var isSecret = false

    /// The value with credentials blanked, and where it came from.
    var text: String {
        let shown = value.map { isSecret ? Self.redacted($0) : $0 } ?? "(not set)"
        let source =
            if CommandLine.arguments.contains(where: { $0 == flag || $0.hasPrefix("\(flag)=") }) {
                flag
            } else if Environment[variable] != nil {
                variable
            } else {
                "default"
            }
        return "\(variable)=\(shown)    # from \(source)"
    }

    /// A URL loses its password; any other secret is blanked whole.
    static func redacted(_ secret: String) -> String {
        guard let scheme = secret.firstRange(of: "://"), let at = secret[scheme.upperBound...].lastIndex(of: "@") else {
            return "(hidden)"
        }
        let user = secret[scheme.upperBound..<at].prefix { $0 != ":" }
        return "\(secret[..<scheme.upperBound])\(user):(hidden)\(secret[at...])"
    }
}

struct DatabaseOptions: ParsableArguments {
    @Option(
        name: .customLong("database-url"),
        help:
            "Postgres, with the login to use: a service has its own, all else is done as the owner. [MARTLET_DATABASE_URL]"
    )
    var given: String?

    /// The URL in force.
    ///
    /// - Throws: `ValidationError` when neither flag nor variable is given.
    var url: String {
        get throws {
            guard let url = given ?? Environment["MARTLET_DATABASE_URL"] else {
                throw ValidationError(
                    "No database given. Set --database-url or MARTLET_DATABASE_URL, e.g. postgres://martlet_api:secret@127.0.0.1:5432/martlet"
                )
            }
            return url
        }
    }

    var line: SettingLine {
        SettingLine(
            flag: "--database-url",
            variable: "MARTLET_DATABASE_URL",
            value: given ?? Environment["MARTLET_DATABASE_URL"],
            isSecret: true
        )
    }
}

struct ServiceOptions: ParsableArguments {
    @Option(help: "Least level that is logged: trace, debug, info, notice, warning, error. [MARTLET_LOG_LEVEL]")
    var logLevel = Environment["MARTLET_LOG_LEVEL"] ?? "info"

    @Flag(help: "Print the settings in force and where each came from, then exit.")
    var printConfig = false

    var line: SettingLine { SettingLine(flag: "--log-level", variable: "MARTLET_LOG_LEVEL", value: logLevel) }

    /// Prints the lines and ends the process when `--print-config` was asked for.
    func printAndExitIfAsked(_ lines: [SettingLine]) {
        guard printConfig else { return }
        for line in lines + [self.line] { print(line.text) }
        Martlet.exit()
    }
}

/// `host:port`, as every listen flag takes it.
struct ListenAddress: ExpressibleByArgument, CustomStringConvertible {
    let host: String
    let port: Int

    init?(argument: String) {
        guard let colon = argument.lastIndex(of: ":"), let port = Int(argument[argument.index(after: colon)...]),
            (0...65535).contains(port), colon > argument.startIndex
        else { return nil }
        var host = argument[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        self.host = String(host)
        self.port = port
    }

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

extension SecretBox {
    static let variable = "MARTLET_SECRETS_KEY"

    /// With the key of the environment, the same for api and runners; nil without one. Throws when it is no key.
    static func ofEnvironment() throws -> SecretBox? {
        do {
            return try Environment[variable].map { try SecretBox(hexKey: $0) }
        } catch {
            throw ValidationError("\(variable): \(error)")
        }
    }
}

extension SettingLine {
    /// Only by environment: everybody may read a process's arguments.
    static var secretsKey: SettingLine {
        SettingLine(
            flag: "(none)",
            variable: SecretBox.variable,
            value: Environment[SecretBox.variable],
            isSecret: true
        )
    }
}
