import Glibc
import HTTPTypes
import Hummingbird
import NIOCore

/// The routes below `/git` (WIRE-CONTRACT 5.8). Each runs the image's own git, and finds out all it needs by running it.
package struct GitRoutes: Sendable {
    let processes: ProcessTable
    let environment: EnvironmentStore
    let workingDirectory: WorkingDirectory

    /// Git at work in a repository. Its root must be the path: what lies above it is not touched by mistake.
    /// - Throws: 404 if there is no directory, 501 if the image has no git.
    func repository(
        _ path: String,
        _ call: ToolboxCall,
        limit: Duration = GitLimit.localDeadline
    ) async throws -> GitSession {
        let directory = try workingDirectory.resolve(path)
        let (real, status) = try await onBlockingThread { (realPath(directory), try FileStatus.of(directory)) }
        guard let real, status?.kind == .directory else {
            throw ToolboxError(
                GitProblem.repositoryNotFound.status,
                GitProblem.repositoryNotFound.code,
                "there is no directory \(directory), so no repository"
            )
        }
        return try await session(call, in: directory, ceiling: parentPath(real), limit: limit)
    }

    /// Git at work outside of any repository.
    func anywhere(_ call: ToolboxCall, limit: Duration = GitLimit.localDeadline) async throws -> GitSession {
        try await session(call, in: "/", ceiling: nil, limit: limit)
    }

    private func session(
        _ call: ToolboxCall,
        in directory: String,
        ceiling: String?,
        limit: Duration
    ) async throws -> GitSession {
        let variables = environment.current
        guard let git = try await onBlockingThread({ ProgramSearch.find("git", in: variables) }) else {
            throw ToolboxError(
                .notImplemented,
                "NOT_IMPLEMENTED",
                "git is not in this sandbox: it was not found in PATH; install it or use an image that has it"
            )
        }
        return GitSession(
            call: call,
            processes: processes,
            executable: git,
            environment: variables,
            directory: directory,
            ceiling: ceiling,
            limit: limit,
            expiry: .now + limit
        )
    }
}

/// Where a path leads, nil if nowhere. Blocks.
private func realPath(_ path: String) -> String? {
    guard let resolved = realpath(path, nil) else { return nil }
    defer { free(resolved) }
    return String(cString: resolved)
}

/// Adds all of them.
func addGitRoutes(
    to routes: inout RouteMap,
    processes: ProcessTable,
    environment: EnvironmentStore,
    workingDirectory: WorkingDirectory
) {
    let git = GitRoutes(processes: processes, environment: environment, workingDirectory: workingDirectory)
    routes.on(.post, "/git/clone") { try await git.clone($0) }
    routes.on(.post, "/git/init") { try await git.initialize($0) }
    routes.on(.get, "/git/status") { try await git.status($0) }
    routes.on(.get, "/git/history") { try await git.history($0) }
    routes.on(.post, "/git/add") { try await git.add($0) }
    routes.on(.post, "/git/commit") { try await git.commit($0) }
    routes.on(.post, "/git/reset") { try await git.reset($0) }
    routes.on(.post, "/git/restore") { try await git.restore($0) }
    routes.on(.get, "/git/branches") { try await git.branches($0) }
    routes.on(.post, "/git/branches") { try await git.createBranch($0) }
    routes.on(.delete, "/git/branches") { try await git.deleteBranch($0) }
    routes.on(.post, "/git/checkout") { try await git.checkOut($0) }
    routes.on(.get, "/git/remotes") { try await git.remotes($0) }
    routes.on(.post, "/git/remotes") { try await git.addRemote($0) }
    routes.on(.post, "/git/pull") { try await git.pull($0) }
    routes.on(.post, "/git/push") { try await git.push($0) }
    routes.on(.get, "/git/config") { try await git.config($0) }
    routes.on(.post, "/git/config") { try await git.setConfig($0) }
    routes.on(.post, "/git/config/user") { try await git.configureUser($0) }
    routes.on(.post, "/git/credentials") { try await git.storeCredentials($0) }
}
