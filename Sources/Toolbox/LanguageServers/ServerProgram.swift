import HTTPTypes

/// The program of a language server, found in an image.
package struct ServerProgram: Sendable, Equatable {
    package enum Speech: Sendable, Equatable {
        case standard, typeScript
    }

    /// What it is called in messages.
    package var name: String
    package var command: [String]
    package var speech = Speech.standard
    /// Whether its address space can be limited; Node's cannot.
    package var isPython = false

    /// Where `tsserver.js` is: the project's own first, then what Debian and npm install.
    private static let typeScriptFolders = [
        "/usr/local/lib/node_modules/typescript", "/usr/lib/node_modules/typescript", "/usr/share/nodejs/typescript",
    ]

    /// The best server that there is for a project, of its own first, then of the image. Blocks.
    /// - Throws: 501 that names what to install.
    package static func find(for project: ServerProject, in environment: [String: String]) throws -> ServerProgram {
        switch project.language {
        case .python: try findPython(project.path, environment)
        case .typescript, .javascript: try findTypeScript(project, environment)
        }
    }

    private static func findPython(_ project: String, _ environment: [String: String]) throws -> ServerProgram {
        let folders = ["\(project)/.venv/bin", "\(project)/venv/bin"]
        for name in ["basedpyright-langserver", "pyright-langserver"] {
            if let path = search(name, folders, environment) {
                return ServerProgram(name: name, command: [path, "--stdio"])
            }
        }
        if let path = search("pylsp", folders, environment) {
            return ServerProgram(name: "pylsp", command: [path], isPython: true)
        }
        throw missing(
            "python",
            "none of basedpyright-langserver, pyright-langserver, pylsp is in PATH; `pip install basedpyright` brings one"
        )
    }

    private static func findTypeScript(_ project: ServerProject, _ environment: [String: String]) throws
        -> ServerProgram
    {
        let name = "typescript-language-server"
        if let path = search(name, ["\(project.path)/node_modules/.bin"], environment) {
            return ServerProgram(name: name, command: [path, "--stdio"])
        }
        let scripts = (["\(project.path)/node_modules/typescript"] + typeScriptFolders).map { "\($0)/lib/tsserver.js" }
        guard let node = ProgramSearch.find("node", in: environment),
            let script = scripts.first(where: { (try? FileStatus.of($0))?.kind == .regular })
        else {
            throw missing(
                project.language.rawValue,
                "neither \(name) nor TypeScript's tsserver with Node is installed; "
                    + "`npm install -g typescript-language-server typescript` or `apt-get install node-typescript` brings one"
            )
        }
        let options = [
            "--disableAutomaticTypingAcquisition", "--suppressDiagnosticEvents", "--useInferredProjectPerProjectRoot",
        ]
        return ServerProgram(name: "tsserver", command: [node, script] + options, speech: .typeScript)
    }

    private static func search(_ name: String, _ folders: [String], _ environment: [String: String]) -> String? {
        ProgramSearch.find(name, in: ["PATH": folders.joined(separator: ":")])
            ?? ProgramSearch.find(name, in: environment)
    }

    private static func missing(_ language: String, _ remedy: String) -> ToolboxError {
        ToolboxError(
            .notImplemented,
            "NOT_IMPLEMENTED",
            "this sandbox has no language server for \(language): \(remedy)"
        )
    }

    /// The first to be killed when memory is short, behind everything else for the processor, with no core dumps and, where
    /// that is possible, bounded memory of its own.
    private static let confinement = """
        { echo 900 >/proc/self/oom_score_adj; } 2>/dev/null
        ulimit -c 0
        [ "$0" = 0 ] || ulimit -v "$0" || exit 1
        if command -v nice >/dev/null 2>&1; then exec nice -n 10 "$@"; fi
        exec "$@"
        """

    /// How to start it in a project.
    package func specification(in project: String, environment: [String: String]) -> ProgramSpecification {
        let memory = isPython ? LanguageServerLimit.addressSpaceKilobytes : 0
        var variables = environment
        let heap = "--max-old-space-size"
        let options = variables["NODE_OPTIONS"] ?? ""
        if !options.contains(heap) {
            variables["NODE_OPTIONS"] = "\(options) \(heap)=\(LanguageServerLimit.heapMegabytes)"
        }
        var program = ProgramSpecification(
            executable: "/bin/sh",
            arguments: ["sh", "-c", Self.confinement, String(memory)] + command,
            environment: variables,
            directory: project
        )
        program.streams = .apart
        return program
    }

    /// Speaks with it over a connection to it.
    func dialect(_ connection: ServerConnection, _ project: ServerProject) -> any ServerDialect {
        switch speech {
        case .standard: StandardDialect(connection)
        case .typeScript: TypeScriptDialect(connection, project)
        }
    }

    var format: any MessageFormat {
        switch speech {
        case .standard: JSONRPCFormat()
        case .typeScript: TypeScriptFormat()
        }
    }
}
