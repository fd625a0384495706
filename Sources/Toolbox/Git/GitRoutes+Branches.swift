import HTTPTypes
import Hummingbird

/// Branches: `/git/branches` and `/git/checkout`.
extension GitRoutes {
    private struct BranchesAnswer: Encodable {
        var branches: [String]
        var current: String
    }

    /// `GET /git/branches?path=`: the local ones. The current one has no commit yet in a new repository, so need not be listed.
    func branches(_ call: ToolboxCall) async throws -> Response {
        let session = try await repository(try call.query.required("path"), call)
        var command = GitCommand("for-each-ref", "--format=%(refname)")
        command.addOperands(ReferencePattern.branches)
        let names = try await session.check(command).text.split(separator: "\n").map {
            $0.dropFirst("refs/heads/".count)
        }
        let current = try await session.currentBranch()
        return try jsonResponse(BranchesAnswer(branches: names.map(String.init), current: current?.operand ?? ""))
    }

    private struct BranchBody: Decodable {
        var path: String
        var name: String
    }

    /// `POST /git/branches`: at HEAD, without checking it out.
    func createBranch(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(BranchBody.self)
        let name = try BranchName(body.name, field: "name")
        var command = GitCommand("branch", "--no-track")
        command.addOperands(name)
        let session = try await repository(body.path, call)
        let result = try await session.run(command)
        if result.errors.hasPrefix("fatal: not a valid object name") {
            throw ToolboxError(
                .conflict,
                "CONFLICT",
                "cannot create branch '\(body.name)': the repository has no commit yet for it to point to; commit first"
            )
        }
        guard result.exitCode == 0 else { throw gitFailure(command.title, result) }
        return emptyResponse(.created)
    }

    /// `DELETE /git/branches`: merged or not.
    func deleteBranch(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(BranchBody.self)
        var command = GitCommand("branch", "--delete", "--force")
        command.addOperands(try BranchName(body.name, field: "name"))
        try await repository(body.path, call).check(command)
        return emptyResponse(.noContent)
    }

    private struct CheckoutBody: Decodable {
        var path: String
        var branch: String
    }

    /// `POST /git/checkout`: a branch, one that only a remote has, or any revision, which leaves HEAD detached.
    func checkOut(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(CheckoutBody.self)
        var command = GitCommand("checkout", "--quiet")
        command.add(revision: try GitRevision(body.branch, field: "branch"))
        command.addOperands()
        try await repository(body.path, call).check(command)
        return emptyResponse(.ok)
    }
}

extension GitSession {
    /// The branch that HEAD is on, with or without a commit; nil if it is detached.
    func currentBranch() async throws -> BranchName? {
        var command = GitCommand("symbolic-ref", "--quiet")
        command.addOperands(GitRevision.head)
        let result = try await run(command)
        if result.exitCode == 1 { return nil }
        guard result.exitCode == 0 else { throw gitFailure(command.title, result) }
        guard result.text.hasPrefix("refs/heads/") else { return nil }
        return try BranchName(String(result.text.dropFirst("refs/heads/".count)), field: "HEAD")
    }
}
