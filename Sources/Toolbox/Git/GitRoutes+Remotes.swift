import HTTPTypes
import Hummingbird

/// Remotes: `/git/remotes`, `pull` and `push`.
extension GitRoutes {
    private struct Remote: Encodable {
        var name: String
        var url: String
    }

    /// `GET /git/remotes?path=`: each with the first of its URLs, as it is set.
    func remotes(_ call: ToolboxCall) async throws -> Response {
        let session = try await repository(try call.query.required("path"), call)
        var command = GitCommand("config", "--local", "--includes", "--null", "--get-regexp")
        command.addOperands(try ConfigValue(#"^remote\..*\.url$"#))
        let result = try await session.run(command)
        guard result.exitCode <= 1 else { throw gitFailure(command.title, result) }
        var remotes: [Remote] = []
        for entry in result.output.readableBytesView.split(separator: 0) {
            let pair = entry.split(separator: 10, maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(decoding: pair[0].dropFirst("remote.".count).dropLast(".url".count), as: UTF8.self)
            guard pair.count == 2, !remotes.contains(where: { $0.name == name }) else { continue }
            remotes.append(Remote(name: name, url: String(decoding: pair[1], as: UTF8.self)))
        }
        return try jsonResponse(["remotes": remotes])
    }

    private struct RemoteBody: Decodable {
        var path: String
        var name: String
        var url: String
        var fetch: Bool?
        var overwrite: Bool?
    }

    /// `POST /git/remotes`: a new one whose first fetch fails does not stay.
    func addRemote(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(RemoteBody.self)
        let name = try RemoteName(body.name, field: "name")
        _ = try RemoteURL(body.url)
        // A password in it is stored: here it is asked for by the one who sends it.
        let url = try ConfigValue(body.url, field: "url")
        let session = try await repository(body.path, call, limit: GitLimit.networkDeadline)
        let replaced = body.overwrite == true ? try await session.replaceRemote(name, url) : false
        if !replaced {
            var command = GitCommand("remote", "add")
            command.addOperands(name, url)
            try await session.check(command)
        }
        if body.fetch == true {
            try await session.fetch(name, removing: !replaced)
        }
        return emptyResponse(.created)
    }

    private struct PullBody: Decodable {
        var path: String
        var branch: String?
        var remote: String?
        var username: String?
        var password: String?
    }

    /// `POST /git/pull`: fetches and merges. A merge with conflicts stays, to be resolved.
    func pull(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(PullBody.self)
        let branch = try optionalBranch(body.branch)
        let remote = try optionalRemote(body.remote)
        let credentials = try GitCredentials.given(username: body.username, password: body.password)
        let session = try await repository(body.path, call, limit: GitLimit.networkDeadline)
        let source = try await session.pullSource(remote, branch)
        var command = GitCommand("pull", "--no-rebase", "--no-edit")
        command.addOperands(source.remote, source.branch)
        try await session.authorize(&command, credentials, for: source.remote, pushing: false)
        try await session.check(command)
        return emptyResponse(.ok)
    }

    private struct PushBody: Decodable {
        var path: String
        var branch: String?
        var remote: String?
        var username: String?
        var password: String?
        var setsUpstream: Bool?

        enum CodingKeys: String, CodingKey {
            case path, branch, remote, username, password
            case setsUpstream = "set_upstream"
        }
    }

    /// `POST /git/push`: one branch to the branch of the same name.
    func push(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(PushBody.self)
        let given = try optionalBranch(body.branch)
        let remote = try optionalRemote(body.remote) ?? .origin
        let credentials = try GitCredentials.given(username: body.username, password: body.password)
        let session = try await repository(body.path, call, limit: GitLimit.networkDeadline)
        let branch: BranchName
        if let given { branch = given } else { branch = try await session.requireBranch() }
        var command = GitCommand("push", "--porcelain")
        if body.setsUpstream == true { command.add("--set-upstream") }
        command.addOperands(remote, PushedBranch(branch: branch))
        try await session.authorize(&command, credentials, for: remote, pushing: true)
        try await session.check(command)
        return emptyResponse(.ok)
    }

    private func optionalBranch(_ name: String?) throws -> BranchName? {
        try name.flatMap { $0.isEmpty ? nil : try BranchName($0, field: "branch") }
    }

    private func optionalRemote(_ name: String?) throws -> RemoteName? {
        try name.flatMap { $0.isEmpty ? nil : try RemoteName($0, field: "remote") }
    }
}

/// From the branch to the branch of the same name, both by their whole names.
private struct PushedBranch: GitOperand {
    var branch: BranchName
    var operand: String { "\(branch.reference):\(branch.reference)" }
}

extension GitSession {
    /// The branch that HEAD is on.
    /// - Throws: 400 if it is on none.
    fileprivate func requireBranch() async throws -> BranchName {
        if let branch = try await currentBranch() { return branch }
        throw ToolboxError.badRequest("HEAD is detached, so there is no current branch; pass 'branch'")
    }

    /// What to pull: what is asked for, else the current branch's upstream, else the branch of the same name on `origin`.
    fileprivate func pullSource(
        _ remote: RemoteName?,
        _ branch: BranchName?
    ) async throws -> (remote: any GitOperand, branch: any GitOperand) {
        if let branch { return (remote ?? .origin, branch) }
        let current = try await requireBranch()
        var command = GitCommand("for-each-ref", "--format=%(upstream:remotename)%00%(upstream:remoteref)")
        command.addOperands(ReferencePattern.branch(current))
        let upstream = try await check(command).text.split(separator: "\0", omittingEmptySubsequences: false)
        guard upstream.count == 2, !upstream[0].isEmpty, !upstream[1].isEmpty,
            remote == nil || remote?.operand == String(upstream[0])
        else { return (remote ?? .origin, current) }
        return (try ConfigValue(String(upstream[0])), try ConfigValue(String(upstream[1])))
    }

    /// Sets the URL of a remote that exists; false if there is none.
    fileprivate func replaceRemote(_ name: RemoteName, _ url: ConfigValue) async throws -> Bool {
        var command = GitCommand("remote", "set-url")
        command.addOperands(name, url)
        let result = try await run(command)
        if result.exitCode != 0, result.errors.contains("No such remote") { return false }
        guard result.exitCode == 0 else { throw gitFailure(command.title, result) }
        // A URL of its own for pushes would still lead to the old place.
        var unset = GitCommand("config", "--local", "--unset-all")
        unset.addOperands(try ConfigValue("remote.\(name.operand).pushurl"))
        _ = try await run(unset)
        return true
    }

    fileprivate func fetch(_ remote: RemoteName, removing: Bool) async throws {
        var command = GitCommand("fetch", "--quiet")
        command.addOperands(remote)
        do {
            try await check(command)
        } catch {
            var removal = GitCommand("remote", "remove")
            removal.addOperands(remote)
            if removing { _ = try? await run(removal) }
            throw error
        }
    }

    /// Lets git use credentials for the URLs that a remote has.
    /// - Throws: 400 if none is http or https.
    fileprivate func authorize(
        _ command: inout GitCommand,
        _ credentials: GitCredentials?,
        for remote: any GitOperand,
        pushing: Bool
    ) async throws {
        guard let credentials else { return }
        var query = GitCommand("remote", "get-url", "--all")
        if pushing { query.add("--push") }
        query.addOperands(remote)
        let urls = try await check(query).text.split(separator: "\n")
        let origins = urls.compactMap { try? RemoteURL(String($0)).origin }
        guard !origins.isEmpty else {
            throw ToolboxError.badRequest(
                "fields 'username' and 'password' are only of use with an http or https URL, and remote '\(remote.operand)' has none"
            )
        }
        credentials.authorize(&command, for: origins)
    }
}
