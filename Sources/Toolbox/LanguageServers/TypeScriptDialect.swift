/// The protocol of TypeScript's own `tsserver`, for images without the wrapper that speaks LSP.
package struct TypeScriptDialect: ServerDialect {
    package let connection: ServerConnection
    private let project: ServerProject

    /// Symbols that one search in a project finds at most.
    private static let symbolLimit = 1000
    /// What `tsserver` says where an editor would show nothing.
    private static let nothingThere = "No content available."

    package init(_ connection: ServerConnection, _ project: ServerProject) {
        (self.connection, self.project) = (connection, project)
    }

    package func initialize(_ project: ServerProject, files: ProjectFiles) async throws {
        _ = try await connection.request(
            "configure",
            ["hostInfo": "martlet \(daemonVersion)"],
            within: connection.patience.start,
            as: NoParameters.self
        )
        try load(files)
    }

    package func open(_ document: ServerDocument) throws {
        let opening = Opening(file: document.path, fileContent: document.text, projectRootPath: project.path)
        try connection.notify("open", opening)
    }

    package func close(_ path: String) throws {
        try connection.notify("close", ["file": path])
    }

    /// It watches files by itself, but sees them a second late. Projects without an open document are read anew when they are
    /// closed and opened, those with one when they are reloaded.
    package func noteChanges(_ changes: ProjectChanges, files: ProjectFiles) throws {
        let nothing: NoParameters? = nil
        try connection.notify("closeExternalProject", ["projectFileName": projectFile])
        try connection.notify("reloadProjects", nothing)
        try load(files)
    }

    package func documentSymbols(_ path: String) async throws -> [LanguageSymbol] {
        let tree = try await ask("navtree", ["file": path], as: NavigationTree.self)
        // The first is the file itself.
        return flatten((tree?.childItems ?? []).flatMap(\.symbols), in: fileURI(path))
    }

    /// It reads the project before it answers. The language's own library is not of the project.
    package func workspaceSymbols(_ query: String, settled: ContinuousClock.Instant) async throws -> [LanguageSymbol] {
        let question = Navigation(searchValue: query, maxResultCount: Self.symbolLimit)
        let found = try await ask("navto", question, as: [NavigationItem].self) ?? []
        return found.filter { project.contains($0.file) }.map(\.symbol)
    }

    package func completions(_ path: String, at place: CompletionPlace) async throws -> LanguageCompletions {
        let question = CompletionQuestion(
            file: path,
            line: place.position.line + 1,
            offset: place.position.character + 1,
            triggerCharacter: place.context?.triggerCharacter
        )
        let found = try await ask("completionInfo", question, as: CompletionInformation.self)
        return LanguageCompletions(
            isIncomplete: found?.isIncomplete ?? false,
            items: (found?.entries ?? []).map(\.completion)
        )
    }

    package func leave() async {
        let nothing: NoParameters? = nil
        try? connection.notify("exit", nothing)
    }

    /// Makes one project of all files, or of what the folder's own configuration names.
    private func load(_ files: ProjectFiles) throws {
        let configurations = ["tsconfig.json", "jsconfig.json"].map { "\(project.path)/\($0)" }
        let own = configurations.filter { files.configurations.contains($0) }
        let roots = own.isEmpty ? files.stamps.keys.sorted() : own
        try connection.notify(
            "openExternalProject",
            ExternalProject(
                projectFileName: projectFile,
                rootFiles: roots.map { ExternalProject.File(fileName: $0) }
            )
        )
    }

    /// The project's name; there is no such file.
    private var projectFile: String { "\(project.path)/martlet" }

    private func ask<Value: Decodable & Sendable>(
        _ command: String,
        _ arguments: some Encodable & Sendable,
        as type: Value.Type
    ) async throws -> Value? {
        do {
            return try await connection.request(command, arguments, as: type)
        } catch let refusal as ServerRefusal where refusal.message == Self.nothingThere {
            return nil
        }
    }
}

private struct Opening: Encodable, Sendable {
    var file: String
    var fileContent: String
    var projectRootPath: String
}

private struct ExternalProject: Encodable, Sendable {
    struct File: Encodable, Sendable {
        var fileName: String
    }

    var projectFileName: String
    var rootFiles: [File]
    var options = ["allowJs": true]
}

private struct Navigation: Encodable, Sendable {
    var searchValue: String
    var maxResultCount: Int
}

private struct CompletionQuestion: Encodable, Sendable {
    var file: String
    var line: Int
    var offset: Int
    var triggerCharacter: String?
}

/// Lines and columns from 1.
private struct Place: Decodable, Sendable {
    var line: Int
    var offset: Int

    var position: DocumentPosition { DocumentPosition(line: max(0, line - 1), character: max(0, offset - 1)) }
}

private struct Span: Decodable, Sendable {
    var start: Place
    var end: Place

    var range: DocumentRange { DocumentRange(start: start.position, end: end.position) }
}

private struct NavigationTree: Decodable, Sendable {
    var text: String
    var kind: String
    var spans: [Span]
    var childItems: [NavigationTree]?

    /// What has no name of its own, like `<function>`, gives its place to what is in it.
    var symbols: [ServerSymbol] {
        let children = (childItems ?? []).flatMap(\.symbols)
        guard let span = spans.first, !text.hasPrefix("<") else { return children }
        return [ServerSymbol(name: text, kind: symbolKind(kind), range: span.range, children: children)]
    }
}

private struct NavigationItem: Decodable, Sendable {
    var name: String
    var kind: String
    var file: String
    var start: Place
    var end: Place
    var containerName: String?

    var symbol: LanguageSymbol {
        LanguageSymbol(
            name: name,
            kind: symbolKind(kind),
            location: .init(uri: fileURI(file), range: Span(start: start, end: end).range),
            containerName: containerName.flatMap { $0.isEmpty ? nil : $0 }
        )
    }
}

private struct CompletionInformation: Decodable, Sendable {
    struct Entry: Decodable, Sendable {
        var name: String
        var kind: String
        var sortText: String?
        var filterText: String?
        var insertText: String?

        var completion: LanguageCompletion {
            LanguageCompletion(
                label: name,
                kind: completionKinds[kind] ?? 6,
                sortText: sortText,
                filterText: filterText,
                insertText: insertText
            )
        }
    }

    var isIncomplete: Bool?
    var entries: [Entry]
}

/// LSP's number for a kind of symbol; a variable's for what is not known.
private func symbolKind(_ kind: String) -> Int { symbolKinds[kind] ?? 13 }

private let symbolKinds = [
    "module": 2, "external module name": 2, "class": 5, "local class": 5, "method": 6, "getter": 7, "setter": 7,
    "property": 7, "accessor": 7, "constructor": 9, "construct": 9, "enum": 10, "interface": 11, "function": 12,
    "local function": 12, "call": 12, "index": 20, "const": 14, "enum member": 22, "type": 26, "type parameter": 26,
]

private let completionKinds = [
    "method": 2, "function": 3, "local function": 3, "constructor": 4, "construct": 4, "property": 10, "getter": 10,
    "setter": 10, "accessor": 10, "class": 7, "local class": 7, "interface": 8, "module": 9,
    "external module name": 9, "enum": 13, "keyword": 14, "primitive type": 14, "script": 17, "alias": 18,
    "directory": 19, "enum member": 20, "const": 21, "type": 25, "type parameter": 25, "string": 12,
]
