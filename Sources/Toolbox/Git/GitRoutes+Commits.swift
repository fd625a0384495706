import HTTPTypes
import Hummingbird
import NIOCore

/// What changed, and commits: `/git/status`, `add`, `commit`, `history`, `reset` and `restore`.
extension GitRoutes {
    private struct StatusAnswer: Encodable {
        var currentBranch: String
        var detached: Bool
        var upstream: String
        var ahead: Int
        var behind: Int
        var branchPublished: Bool
        var fileStatus: [ChangedFile]
    }

    /// `GET /git/status?path=`: every untracked file by itself, or if they are too many the directories that hold them.
    func status(_ call: ToolboxCall) async throws -> Response {
        let session = try await repository(try call.query.required("path"), call)
        let report: GitStatusReport
        if let whole = try await session.status("--untracked-files=all") {
            report = whole
        } else if let short = try await session.status("--untracked-files=normal") {
            report = short
        } else {
            throw ToolboxError(
                .unprocessableContent,
                "UNPROCESSABLE_ENTITY",
                "more than \(GitLimit.statusFiles) files changed, the limit of a status; run git status as a command"
            )
        }
        return try jsonResponse(
            StatusAnswer(
                currentBranch: report.branch ?? "HEAD",
                detached: report.branch == nil,
                upstream: report.upstream,
                ahead: report.distance?.ahead ?? 0,
                behind: report.distance?.behind ?? 0,
                branchPublished: try await session.isPublished(report),
                fileStatus: report.files
            )
        )
    }

    private struct AddBody: Decodable {
        var path: String
        var files: [String]
    }

    /// `POST /git/add`: files and directories by their names, deleted ones too; `.` is all.
    func add(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(AddBody.self)
        var command = GitCommand("add")
        command.add(paths: try checkedPaths(body.files))
        try await repository(body.path, call).check(command)
        return emptyResponse(.ok)
    }

    private struct CommitBody: Decodable {
        var path: String
        var message: String
        var author: String
        var email: String
        var allowsEmpty: Bool?

        enum CodingKeys: String, CodingKey {
            case path, message, author, email
            case allowsEmpty = "allow_empty"
        }
    }

    /// `POST /git/commit`: of what is staged, with the author as committer.
    func commit(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(CommitBody.self)
        let identity = try GitIdentity(name: body.author, email: body.email, nameField: "author")
        guard !body.message.allSatisfy(\.isWhitespace) else {
            throw ToolboxError.badRequest("field 'message' is empty")
        }
        guard body.message.utf8.count <= GitLimit.messageBytes, !body.message.utf8.contains(0) else {
            throw ToolboxError.badRequest(
                "field 'message' holds a NUL or is longer than \(GitLimit.messageBytes) bytes, the limit"
            )
        }
        var command = GitCommand("commit", "--quiet", "--cleanup=whitespace", "--file=-")
        if body.allowsEmpty == true { command.add("--allow-empty") }
        command.input.writeString(body.message)
        command.variables = [
            "GIT_AUTHOR_NAME": identity.name, "GIT_AUTHOR_EMAIL": identity.email,
            "GIT_COMMITTER_NAME": identity.name, "GIT_COMMITTER_EMAIL": identity.email,
        ]
        let session = try await repository(body.path, call)
        try await session.check(command)
        guard let hash = try await session.hash(of: .head) else {
            throw ToolboxError(.internalServerError, "INTERNAL_SERVER_ERROR", "git made no commit")
        }
        return try jsonResponse(["hash": hash.operand])
    }

    private struct CommitAnswer: Encodable {
        var hash: String
        var author: String
        var email: String
        var timestamp: String
        var message: String
    }

    /// `GET /git/history?path=`: the newest commits first, as many as the limits let.
    func history(_ call: ToolboxCall) async throws -> Response {
        let session = try await repository(try call.query.required("path"), call)
        var command = GitCommand(
            "log",
            "-z",
            "--no-show-signature",
            "--no-color",
            "--no-patch",
            "--encoding=UTF-8",
            "--format=tformat:%H%x00%an%x00%ae%x00%aI%x00%B"
        )
        command.add("--max-count", GitLimit.historyCommits)
        command.addOperands()
        let result = try await session.run(command, cut: true)
        if result.errors.contains("does not have any commits yet") { return try jsonResponse([CommitAnswer]()) }
        guard result.exitCode == 0 || result.output.readableBytes == GitLimit.outputBytes else {
            throw gitFailure(command.title, result)
        }
        return try jsonResponse(commits(in: result.output.readableBytesView))
    }

    /// Five fields for each, of which the last may have been cut off.
    private func commits(in output: ByteBufferView) -> [CommitAnswer] {
        let fields = output.split(separator: 0, omittingEmptySubsequences: false).dropLast()
        return stride(from: fields.startIndex, to: fields.endIndex - 4, by: 5).map { start in
            func field(_ number: Int) -> String { String(decoding: fields[start + number], as: UTF8.self) }
            return CommitAnswer(
                hash: field(0),
                author: field(1),
                email: field(2),
                timestamp: field(3),
                message: field(4)
            )
        }
    }

    private enum ResetMode: String, Decodable, CaseIterable {
        case soft, mixed, hard, merge, keep

        var option: StaticString {
            switch self {
            case .soft: "--soft"
            case .mixed: "--mixed"
            case .hard: "--hard"
            case .merge: "--merge"
            case .keep: "--keep"
            }
        }
    }

    private struct ResetBody: Decodable {
        var path: String
        var mode: String?
        var target: String?
        var files: [String]?
    }

    /// `POST /git/reset`: of everything to a revision, or of named files in the index.
    func reset(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(ResetBody.self)
        let mode = try body.mode.flatMap { $0.isEmpty ? nil : try resetMode($0) } ?? .mixed
        let target = try body.target.flatMap { $0.isEmpty ? nil : try GitRevision($0, field: "target") }
        let files = try body.files.flatMap { $0.isEmpty ? nil : try checkedPaths($0) }
        guard files == nil || mode == .mixed else {
            throw ToolboxError.badRequest("field 'files' goes with mode 'mixed' only, and 'mode' is '\(mode.rawValue)'")
        }
        let session = try await repository(body.path, call)
        var command = GitCommand("reset", "--quiet")
        if files == nil { command.add(mode.option) }
        if let files { command.add(paths: files) }
        if let target { command.add(revision: try await session.commit(target)) }
        command.addOperands()
        try await session.check(command)
        return emptyResponse(.ok)
    }

    private func resetMode(_ text: String) throws -> ResetMode {
        if let mode = ResetMode(rawValue: text) { return mode }
        let known = ResetMode.allCases.map(\.rawValue).joined(separator: ", ")
        throw ToolboxError.badRequest("field 'mode' is '\(text)', not one of \(known)")
    }

    private struct RestoreBody: Decodable {
        var path: String
        var files: [String]
        var staged: Bool?
        var worktree: Bool?
        var source: String?
    }

    /// `POST /git/restore`: files in the working tree, unless only the index is asked for.
    func restore(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(RestoreBody.self)
        let files = try checkedPaths(body.files)
        let source = try body.source.flatMap { $0.isEmpty ? nil : try GitRevision($0, field: "source") }
        let staged = body.staged ?? false
        let worktree = body.worktree ?? !staged
        guard staged || worktree else {
            throw ToolboxError.badRequest(
                "fields 'staged' and 'worktree' are both false, so there is nothing to restore"
            )
        }
        let session = try await repository(body.path, call)
        var command = GitCommand("restore", "--quiet")
        if staged { command.add("--staged") }
        if worktree { command.add("--worktree") }
        if let source { command.add("--source", try await session.commit(source)) }
        command.add(paths: files)
        try await session.check(command)
        return emptyResponse(.ok)
    }

    private func checkedPaths(_ files: [String]) throws -> [String] {
        guard (1...GitLimit.paths).contains(files.count) else {
            throw ToolboxError.badRequest(
                "field 'files' holds \(files.count) paths, not between 1 and \(GitLimit.paths); '.' stands for all"
            )
        }
        for file in files where file.isEmpty || file.utf8.count >= pathLimitBytes || file.utf8.contains(0) {
            throw ToolboxError.invalidPath(
                "field 'files' holds a path that is empty, holds a NUL or is longer than \(pathLimitBytes - 1) bytes"
            )
        }
        return files
    }
}

extension GitSession {
    /// The status, nil if there are too many files.
    fileprivate func status(_ untracked: StaticString) async throws -> GitStatusReport? {
        let command = GitCommand(
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--ahead-behind",
            "--find-renames",
            untracked
        )
        let result = try await run(command, cut: true)
        if result.output.readableBytes >= GitLimit.outputBytes { return nil }
        guard result.exitCode == 0 else { throw gitFailure(command.title, result) }
        let report: GitStatusReport
        do {
            report = try parseStatus(result.output.readableBytesView)
        } catch {
            throw ToolboxError(
                .internalServerError,
                "INTERNAL_SERVER_ERROR",
                "git status answered what Martlet cannot read: \(error.record)"
            )
        }
        return report.files.count <= GitLimit.statusFiles ? report : nil
    }

    /// Whether a remote has the branch, as far as is known here: as its upstream, or under the same name.
    fileprivate func isPublished(_ report: GitStatusReport) async throws -> Bool {
        guard report.distance == nil else { return true }
        guard let name = report.branch, let branch = try? BranchName(name, field: "branch") else { return false }
        var command = GitCommand("for-each-ref", "--count=1", "--format=%(refname)")
        command.addOperands(ReferencePattern.onAnyRemote(branch))
        return try await check(command).output.readableBytes > 0
    }

    /// The whole hash of a commit, nil if there is none.
    func hash(of revision: GitRevision) async throws -> CommitHash? {
        var command = GitCommand("rev-parse", "--verify", "--quiet")
        command.add(revision: try GitRevision("\(revision.operand)^{commit}", field: "revision"))
        let result = try await run(command)
        guard result.exitCode != 0 else { return try CommitHash(result.text, field: "hash") }
        // Code 1 and no word is the answer "none"; else git could not even look.
        let problem = classifyFailure(output: "", errors: result.errors)
        if problem == .repositoryNotFound || problem == .accessDenied { throw gitFailure(command.title, result) }
        return nil
    }

    /// The whole hash of a commit that must be there.
    fileprivate func commit(_ revision: GitRevision) async throws -> CommitHash {
        if let hash = try await hash(of: revision) { return hash }
        throw ToolboxError(.notFound, "NOT_FOUND", "the repository has no commit '\(revision.operand)'")
    }
}
