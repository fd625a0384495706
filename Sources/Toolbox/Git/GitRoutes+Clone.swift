import Glibc
import HTTPTypes
import Hummingbird

/// Repositories come into being: `/git/clone` and `/git/init`.
extension GitRoutes {
    fileprivate struct CloneBody: Decodable {
        var url: String
        var path: String
        var branch: String?
        var commit: String?
        var username: String?
        var password: String?
        var skipsTLSChecks: Bool?
        var depth: Int?

        enum CodingKeys: String, CodingKey {
            case url, path, branch, username, password, depth
            case commit = "commit_id"
            case skipsTLSChecks = "insecure_skip_tls"
        }
    }

    /// `POST /git/clone`: a branch, or a commit, which leaves HEAD detached. Of a clone that failed nothing stays.
    func clone(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(CloneBody.self)
        let plan = try ClonePlan(body, workingDirectory)
        let session = try await anywhere(call, limit: GitLimit.networkDeadline)
        let existed = try await onBlockingThread { try FileStatus.of(plan.path) != nil }
        try await session.check(plan.clone())
        guard let commit = plan.commit else { return emptyResponse(.ok) }
        do {
            try await session.moved(to: plan.path).checkOut(commit, of: plan)
        } catch {
            // The clone succeeded, so all that is there is ours. A task of its own, since this one may be cancelled.
            _ = await Task { try await onTreeThread { try removeClone(plan.path, keepsDirectory: existed) } }.result
            throw error
        }
        return emptyResponse(.ok)
    }

    private struct InitBody: Decodable {
        var path: String
        var bare: Bool?
        var initialBranch: String?

        enum CodingKeys: String, CodingKey {
            case path, bare
            case initialBranch = "initial_branch"
        }
    }

    /// `POST /git/init`: with the directories above. One that exists stays as it is.
    func initialize(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(InitBody.self)
        let path = GitPath(operand: try workingDirectory.resolve(body.path))
        var command = GitCommand("init", "--quiet")
        if body.bare == true { command.add("--bare") }
        if let branch = body.initialBranch, !branch.isEmpty {
            command.add("--initial-branch", try BranchName(branch, field: "initial_branch"))
        }
        command.addOperands(path)
        try await anywhere(call).check(command)
        return emptyResponse(.created)
    }

    /// A checked request to clone.
    fileprivate struct ClonePlan: Sendable {
        let url: RemoteURL
        let path: String
        let branch: BranchName?
        let commit: CommitHash?
        let credentials: GitCredentials?
        let depth: Int?
        let skipsTLSChecks: Bool

        fileprivate init(_ body: CloneBody, _ workingDirectory: WorkingDirectory) throws {
            url = try RemoteURL(body.url)
            path = try workingDirectory.resolve(body.path)
            branch = try body.branch.flatMap { $0.isEmpty ? nil : try BranchName($0, field: "branch") }
            commit = try body.commit.flatMap { $0.isEmpty ? nil : try CommitHash($0, field: "commit_id") }
            credentials = try GitCredentials.given(username: body.username, password: body.password) ?? url.credentials
            skipsTLSChecks = body.skipsTLSChecks ?? false
            depth = body.depth == 0 ? nil : body.depth
            if let depth, !(1...GitLimit.depth).contains(depth) {
                throw ToolboxError.badRequest("field 'depth' is \(depth), not between 1 and \(GitLimit.depth)")
            }
            guard credentials == nil || url.origin != nil else {
                throw ToolboxError.badRequest(
                    "fields 'username' and 'password' are only of use with an http or https URL"
                )
            }
        }

        func clone() -> GitCommand {
            // A local clone without links to the other's files, and with the depth that was asked for.
            var command = GitCommand("clone", "--quiet", "--no-local")
            if commit != nil { command.add("--no-checkout") }
            if let branch { command.add("--branch", branch) }
            if let depth { command.add("--depth", depth) }
            command.addOperands(url, GitPath(operand: path))
            return authorized(command)
        }

        func fetch(_ commit: CommitHash) -> GitCommand {
            var command = GitCommand("fetch", "--quiet")
            if let depth { command.add("--depth", depth) }
            command.addOperands(RemoteName.origin, commit)
            return authorized(command)
        }

        private func authorized(_ command: GitCommand) -> GitCommand {
            var command = command
            guard let origin = url.origin else { return command }
            credentials?.authorize(&command, for: [origin])
            if skipsTLSChecks { command.set("http.\(origin).sslVerify", to: "false") }
            return command
        }
    }
}

extension GitSession {
    /// Checks a commit out that may lie off all branches, or beyond the depth of the clone.
    fileprivate func checkOut(_ commit: CommitHash, of plan: GitRoutes.ClonePlan) async throws {
        if try await hash(of: GitRevision(commit.operand, field: "commit_id")) == nil {
            guard commit.isWhole else { throw noCommit(commit, "; name one that is not on a branch by its whole hash") }
            let fetched = try await run(plan.fetch(commit))
            if fetched.exitCode != 0 {
                switch classifyFailure(output: fetched.text, errors: fetched.errors) {
                case .authenticationFailed, .accessDenied: throw gitFailure("git fetch", fetched)
                default: throw noCommit(commit, ". Git says: \(withoutPasswords(fetched.errors))")
                }
            }
        }
        var command = GitCommand("checkout", "--quiet", "--detach")
        command.add(revision: commit)
        command.addOperands()
        try await check(command)
    }

    private func noCommit(_ commit: CommitHash, _ advice: String) -> ToolboxError {
        ToolboxError(.notFound, "NOT_FOUND", "the repository has no commit \(commit.operand)\(advice)")
    }
}

private func removeClone(_ path: String, keepsDirectory: Bool) throws {
    try removeContents(of: DirectoryStream(path, followLinks: true, to: "delete"), path, depth: WalkLimit.depth)
    if !keepsDirectory { rmdir(path) }
}
