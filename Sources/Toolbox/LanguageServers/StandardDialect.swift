import Glibc

/// The Language Server Protocol, version 3.
package struct StandardDialect: ServerDialect {
    package let connection: ServerConnection

    /// Pause between two askings of a server that may not have read its project yet.
    private static let settlingPause = Duration.milliseconds(250)

    package init(_ connection: ServerConnection) {
        self.connection = connection
    }

    package func initialize(_ project: ServerProject, files: ProjectFiles) async throws {
        let parameters = Initialization(project)
        _ = try await connection.request(
            "initialize",
            parameters,
            within: connection.patience.start,
            as: NoParameters.self
        )
        try connection.notify("initialized", NoParameters())
    }

    package func open(_ document: ServerDocument) throws {
        let item = DocumentOpening.Item(
            uri: document.uri,
            languageId: document.language.documentName(of: document.path),
            text: document.text
        )
        try connection.notify("textDocument/didOpen", DocumentOpening(textDocument: item))
    }

    package func close(_ path: String) throws {
        try connection.notify("textDocument/didClose", DocumentQuestion(path))
    }

    package func noteChanges(_ changes: ProjectChanges, files: ProjectFiles) throws {
        let all =
            changes.created.map { WatchedFileChange(uri: fileURI($0), type: 1) }
            + changes.changed.map { WatchedFileChange(uri: fileURI($0), type: 2) }
            + changes.deleted.map { WatchedFileChange(uri: fileURI($0), type: 3) }
        try connection.notify("workspace/didChangeWatchedFiles", ["changes": all])
    }

    package func documentSymbols(_ path: String) async throws -> [LanguageSymbol] {
        let symbols = try await connection.request(
            "textDocument/documentSymbol",
            DocumentQuestion(path),
            as: [ServerSymbol].self
        )
        return flatten(symbols ?? [], in: fileURI(path))
    }

    package func workspaceSymbols(_ query: String, settled: ContinuousClock.Instant) async throws -> [LanguageSymbol] {
        while true {
            let found = try await connection.request("workspace/symbol", ["query": query], as: [ServerSymbol].self)
            let symbols = flatten(found ?? [], in: "")
            guard symbols.isEmpty, ContinuousClock.now < settled else { return symbols }
            try await Task.sleep(for: Self.settlingPause)
        }
    }

    package func completions(_ path: String, at place: CompletionPlace) async throws -> LanguageCompletions {
        var question = DocumentQuestion(path)
        question.position = place.position
        question.context = place.context
        let found = try await connection.request(
            "textDocument/completion",
            question,
            as: ServerCompletions.self
        )
        return found?.completions ?? LanguageCompletions(isIncomplete: false, items: [])
    }

    package func leave() async {
        let nothing: NoParameters? = nil
        let patience = connection.patience.end
        _ = try? await connection.request("shutdown", nothing, within: patience, as: NoParameters.self)
        try? connection.notify("exit", nothing)
    }
}

private struct WatchedFileChange: Encodable, Sendable {
    var uri: String
    var type: Int
}

private struct DocumentOpening: Encodable, Sendable {
    struct Item: Encodable, Sendable {
        var uri: String
        var languageId: String
        var version = 1
        var text: String
    }

    var textDocument: Item
}

private struct DocumentQuestion: Encodable, Sendable {
    struct Item: Encodable, Sendable {
        var uri: String
    }

    var textDocument: Item
    var position: DocumentPosition?
    var context: CompletionContext?

    init(_ path: String) {
        textDocument = Item(uri: fileURI(path))
    }
}

/// What this client can, which decides what servers send.
private struct Initialization: Encodable, Sendable {
    struct Folder: Encodable, Sendable {
        var uri: String
        var name: String
    }

    struct Registration: Encodable, Sendable {
        var dynamicRegistration = true
    }

    struct Capabilities: Encodable, Sendable {
        var workspace = Workspace()
        var textDocument = TextDocument()
        var window = ["workDoneProgress": true]
    }

    struct Workspace: Encodable, Sendable {
        var configuration = true
        var workspaceFolders = true
        var symbol = NoParameters()
        var didChangeWatchedFiles = Registration()
    }

    struct TextDocument: Encodable, Sendable {
        var synchronization = NoParameters()
        var documentSymbol = ["hierarchicalDocumentSymbolSupport": true]
        var completion = Completion()
    }

    struct Completion: Encodable, Sendable {
        var contextSupport = true
        var completionItem = ["documentationFormat": ["markdown", "plaintext"]]
    }

    /// Servers end when this process is gone.
    var processId = getpid()
    var clientInfo = ["name": "martlet", "version": daemonVersion]
    var rootPath: String
    var rootUri: String
    var workspaceFolders: [Folder]
    var capabilities = Capabilities()

    init(_ project: ServerProject) {
        rootPath = project.path
        rootUri = fileURI(project.path)
        workspaceFolders = [Folder(uri: rootUri, name: String(project.path.split(separator: "/").last ?? "/"))]
    }
}
