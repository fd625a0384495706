import Glibc
import HTTPTypes
import NIOCore
import Synchronization

/// One life of a server with what it was told: the documents it holds open, and how the project's files were. There is no
/// call that says what a client typed: the files are the truth, so that each is compared with what the server has before
/// something is asked about it.
package final class ServerSession: Sendable {
    private struct OpenDocument {
        var path: String
        var stamp: FileStamp
    }

    private struct State {
        /// The one used last is the last.
        var documents: [OpenDocument] = []
        var files: ProjectFiles
        /// When the server has read what it was told last, for all one knows.
        var settled: ContinuousClock.Instant
    }

    package let dialect: any ServerDialect
    /// The program's, for messages.
    package let name: String
    private let project: ServerProject
    private let state: Mutex<State>

    private init(_ dialect: any ServerDialect, _ name: String, _ project: ServerProject, _ files: ProjectFiles) {
        (self.dialect, self.name, self.project) = (dialect, name, project)
        state = Mutex(State(files: files, settled: .now + dialect.connection.patience.settling))
    }

    /// Makes a new server ready and opens documents in it, as far as they are there.
    package static func begin(
        _ dialect: any ServerDialect,
        _ name: String,
        _ project: ServerProject,
        documents: [String]
    ) async throws -> ServerSession {
        let files = try await onTreeThread { ProjectFiles.scan(project) }
        try await dialect.initialize(project, files: files)
        let session = ServerSession(dialect, name, project, files)
        for path in documents {
            do { try await session.open(path) } catch is ToolboxError {}  // it is gone, or too large by now
        }
        return session
    }

    /// Paths of the documents that are open, the one used last at the end.
    package var documents: [String] { state.withLock { $0.documents.map(\.path) } }

    /// Opens a document, or lets the server see it anew if its file changed.
    /// - Throws: the file error; 413 above `LanguageServerLimit.documentBytes`.
    package func open(_ path: String) async throws {
        let stamp = try await onBlockingThread { try Self.stamp(of: path) }
        if state.withLock({ Self.touch(path, stamp, in: &$0) }) { return }
        let (text, seen) = try await onBlockingThread { try Self.readDocument(path) }
        let document = ServerDocument(path: path, language: project.language, text: text)
        // With the lock held, so that the server is told in the order that is remembered. Nothing in it waits.
        try state.withLock { state in
            if let index = state.documents.firstIndex(where: { $0.path == path }) {
                try dialect.close(path)
                state.documents.remove(at: index)
            } else if state.documents.count >= LanguageServerLimit.openDocuments {
                try dialect.close(state.documents[0].path)
                state.documents.removeFirst()
            }
            try dialect.open(document)
            state.documents.append(OpenDocument(path: path, stamp: seen))
        }
    }

    /// Closes the one of these that is open.
    package func close(_ candidates: [String]) throws {
        try state.withLock { state in
            guard let index = state.documents.firstIndex(where: { candidates.contains($0.path) }) else { return }
            // Told first: if the server takes nothing now, it still has the document, and so do we.
            try dialect.close(state.documents[index].path)
            state.documents.remove(at: index)
        }
    }

    package func documentSymbols(_ path: String) async throws -> [LanguageSymbol] {
        try await open(path)
        return try await dialect.documentSymbols(path)
    }

    package func workspaceSymbols(_ query: String) async throws -> [LanguageSymbol] {
        try await noteChanges()
        return try await dialect.workspaceSymbols(query, settled: state.withLock { $0.settled })
    }

    package func completions(_ path: String, at place: CompletionPlace) async throws -> LanguageCompletions {
        try await noteChanges()
        try await open(path)
        return try await dialect.completions(path, at: place)
    }

    /// Lets the server know which files came, changed or went.
    private func noteChanges() async throws {
        let files = try await onTreeThread { [project] in ProjectFiles.scan(project) }
        try state.withLock { state in
            let changes = ProjectChanges(from: state.files, to: files)
            guard !changes.isEmpty else { return }
            try dialect.noteChanges(changes, files: files)
            state.files = files
            state.settled = .now + dialect.connection.patience.settling
        }
    }

    /// Whether a document is open as it is; then it is the one used last.
    private static func touch(_ path: String, _ stamp: FileStamp, in state: inout State) -> Bool {
        guard let index = state.documents.firstIndex(where: { $0.path == path }),
            state.documents[index].stamp == stamp
        else { return false }
        state.documents.append(state.documents.remove(at: index))
        return true
    }

    private static func stamp(of path: String) throws -> FileStamp {
        guard let status = try FileStatus.of(path) else { throw ToolboxError.file(ENOENT, "read", path) }
        return FileStamp(status)
    }

    private static func readDocument(_ path: String) throws -> (String, FileStamp) {
        let limit = LanguageServerLimit.documentBytes
        let file = try OpenFile.open(path, O_RDONLY, to: "read")
        guard let status = FileStatus.of(file), status.kind == .regular else {
            throw ToolboxError.invalidPath("\(path) is not a file")
        }
        var bytes = ByteBuffer()
        while bytes.readableBytes <= limit {
            let piece = try file.read(min(256 << 10, limit + 1 - bytes.readableBytes), at: Int64(bytes.readableBytes))
            if piece.readableBytes == 0 { return (String(buffer: bytes), FileStamp(status)) }
            bytes.writeImmutableBuffer(piece)
        }
        throw ToolboxError(
            .contentTooLarge,
            "BAD_REQUEST",
            "\(path) is larger than \(limit) bytes, the limit for documents of language servers"
        )
    }
}
