/// A document as it is handed to a server.
package struct ServerDocument: Sendable {
    package var path: String
    package var language: LanguageID
    package var text: String

    package var uri: String { fileURI(path) }
}

/// Where a completion was asked for, and what made the editor ask.
package struct CompletionPlace: Sendable {
    package var position: DocumentPosition
    package var context: CompletionContext?
}

package struct CompletionContext: Codable, Sendable {
    package var triggerKind: Int
    package var triggerCharacter: String?
}

/// What a running server is told and asked, in the words of its protocol. Paths are absolute and normalised.
package protocol ServerDialect: Sendable {
    var connection: ServerConnection { get }

    /// Makes a new server ready for a project.
    func initialize(_ project: ServerProject, files: ProjectFiles) async throws
    func open(_ document: ServerDocument) throws
    func close(_ path: String) throws
    /// Files that are not open came, changed or went.
    func noteChanges(_ changes: ProjectChanges, files: ProjectFiles) throws
    func documentSymbols(_ path: String) async throws -> [LanguageSymbol]
    /// - Parameter settled: until then the server may not have read the project, and "no such symbol" is not believed.
    func workspaceSymbols(_ query: String, settled: ContinuousClock.Instant) async throws -> [LanguageSymbol]
    func completions(_ path: String, at place: CompletionPlace) async throws -> LanguageCompletions
    /// Asks the server to end.
    func leave() async
}

/// A language that servers are started for.
package enum LanguageID: String, Sendable, CaseIterable {
    case python, typescript, javascript

    /// Extensions of the files that its servers read.
    package var extensions: Set<String> {
        switch self {
        case .python: ["py", "pyi"]
        case .typescript, .javascript: ["ts", "tsx", "mts", "cts", "js", "jsx", "mjs", "cjs"]
        }
    }

    /// LSP's name for the language of a document, which knows JSX apart.
    package func documentName(of path: String) -> String {
        switch (self, path.split(separator: ".").last) {
        case (.python, _): "python"
        case (_, "tsx"): "typescriptreact"
        case (_, "jsx"): "javascriptreact"
        case (_, "ts"), (_, "mts"), (_, "cts"): "typescript"
        case (_, "js"), (_, "mjs"), (_, "cjs"): "javascript"
        case (.typescript, _), (.javascript, _): rawValue
        }
    }
}

/// What a server is for: there is one for each.
package struct ServerProject: Sendable, Hashable {
    package var language: LanguageID
    /// Absolute and normalised.
    package var path: String

    /// Whether a path is of a file in it.
    package func contains(_ file: String) -> Bool { file.hasPrefix(path == "/" ? path : "\(path)/") }
}
