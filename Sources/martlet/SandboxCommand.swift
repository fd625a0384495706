import ArgumentParser
import FoundationEssentials

struct SandboxCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sandbox",
        abstract: "Create, list, use and remove sandboxes through the API.",
        subcommands: [Create.self, List.self, Exec.self, Remove.self]
    )

    /// The fields of the sandbox that the command line shows.
    struct Sandbox: Decodable {
        let id: String
        let name: String
        let state: String
        let errorReason: String?
        let toolboxProxyUrl: String
        let cpu: Int
        let memory: Int
        let disk: Int
        let snapshot: String?
    }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Create a sandbox and print its id.")
        @OptionGroup var api: APIOptions
        @Option(help: "Name; the id when not given.") var name: String?
        @Option(help: "Snapshot, by id or name; the server's default when not given.") var snapshot: String?
        @Option(name: [.short, .long], help: "Environment variable, KEY=VALUE; may be repeated.") var env: [String] = []
        @Option(name: [.short, .long], help: "Label, KEY=VALUE; may be repeated.") var label: [String] = []
        @Flag(help: "No network at all.") var networkBlockAll = false
        @Flag(inversion: .prefixedNo, help: "Record its terminals; the organization's default when not given.")
        var recordTerminals: Bool?

        private struct Body: Encodable {
            let name: String?
            let snapshot: String?
            let env: [String: String]
            let labels: [String: String]
            let networkBlockAll: Bool
            let recordTerminals: Bool?
        }

        func run() async throws {
            let body = Body(
                name: name,
                snapshot: snapshot,
                env: try pairs(env, flag: "--env"),
                labels: try pairs(label, flag: "--label"),
                networkBlockAll: networkBlockAll,
                recordTerminals: recordTerminals
            )
            let sandbox: Sandbox = try await api.client.call("POST", "/sandbox", body: body)
            print(sandbox.id)
            if sandbox.state != "started" {
                let reason = sandbox.errorReason.map { ": \($0)" } ?? ""
                printToStandardError("The sandbox is \(sandbox.state)\(reason)")
            }
        }

        private func pairs(_ texts: [String], flag: String) throws -> [String: String] {
            try texts.reduce(into: [:]) { result, text in
                guard let equals = text.firstIndex(of: "=") else {
                    throw ValidationError("\(flag) takes KEY=VALUE, not '\(text)'")
                }
                result[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List sandboxes, those used last first.")
        @OptionGroup var api: APIOptions
        @Option(help: "At most so many.") var limit = 100

        private struct Page: Decodable {
            let items: [Item]
            let nextCursor: String?
        }
        private struct Item: Decodable {
            let id: String
            let name: String
            let state: String
            let snapshot: String?
        }

        func run() async throws {
            var left = limit
            var cursor: String?
            repeat {
                let query = "?limit=\(min(left, 100))" + (cursor.map { "&cursor=\(pathEncoded($0))" } ?? "")
                let page: Page = try await api.client.call("GET", "/sandbox\(query)")
                for item in page.items {
                    print("\(item.id)  \(padded(item.state, 12))  \(padded(item.snapshot ?? "-", 16))  \(item.name)")
                }
                left -= page.items.count
                cursor = page.items.isEmpty ? nil : page.nextCursor.flatMap { $0.isEmpty ? nil : $0 }
            } while cursor != nil && left > 0
        }

        private func padded(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(0, width - text.count))
        }
    }

    struct Exec: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Run a command in a sandbox; print its output and exit with its code.",
            usage: "martlet sandbox exec SANDBOX [--timeout SECONDS] [--cwd DIRECTORY] -- COMMAND ..."
        )
        @OptionGroup var api: APIOptions
        @Argument(help: "Sandbox, by id or name.") var sandbox: String
        @Option(help: "Seconds after which the command is killed.") var timeout: Int?
        @Option(help: "Working directory.") var cwd: String?
        @Argument(parsing: .postTerminator, help: "The command, for the sandbox's shell.") var command: [String]

        private struct Body: Encodable {
            let command: String
            let cwd: String?
            let timeout: Int?
        }
        private struct Answer: Decodable {
            let exitCode: Int32
            let result: String
        }

        func run() async throws {
            guard !command.isEmpty else { throw ValidationError("No command given; write it after --") }
            let client = try api.client
            let target: Sandbox = try await client.call("GET", "/sandbox/\(pathEncoded(sandbox))")
            let data = try await client.send(
                "POST",
                url: "\(target.toolboxProxyUrl)/\(target.id)/process/execute",
                body: Body(command: command.map(shellQuoted).joined(separator: " "), cwd: cwd, timeout: timeout)
            )
            let answer = try JSONDecoder().decode(Answer.self, from: data)
            print(answer.result, terminator: "")
            throw ExitCode(answer.exitCode)
        }

        /// One word stays a shell line (`exec box -- 'ls | wc'`); several are quoted so that each arrives as it is.
        private func shellQuoted(_ word: String) -> String {
            command.count == 1 ? word : "'\(word.replacing("'", with: "'\\''"))'"
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "rm", abstract: "Destroy sandboxes.")
        @OptionGroup var api: APIOptions
        @Argument(help: "Sandboxes, by id or name.") var sandboxes: [String]

        func run() async throws {
            let client = try api.client
            for sandbox in sandboxes {
                let gone: Sandbox = try await client.call("DELETE", "/sandbox/\(pathEncoded(sandbox))")
                print("\(gone.id)  \(gone.state)")
            }
        }
    }
}

/// Percent-encodes one path component, slashes too.
func pathEncoded(_ text: String) -> String {
    text.utf8.reduce(into: "") { result, byte in
        let isUnreserved =
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
            || "-._~".utf8.contains(byte)
        result +=
            isUnreserved
            ? String(UnicodeScalar(byte)) : "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
    }
}
