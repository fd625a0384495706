package import HTTPTypes

/// What can be wrong with a run of git, as far as callers tell it apart (WIRE-CONTRACT 1.5).
package enum GitProblem: Sendable, CaseIterable {
    case authenticationFailed, repositoryNotFound, branchNotFound, branchExists
    case pushRejected, remoteRejected, transportFailed
    case dirtyWorktree, mergeConflict
    case destinationExists, locked, remoteExists
    case fileNotFound, outsideRepository, accessDenied
    case schemeNotAllowed, nothingToCommit, fileIgnored, identityUnknown, noWorktree, branchInUse
    case incomplete
    case other

    package var status: HTTPResponse.Status {
        switch self {
        case .authenticationFailed: .unauthorized
        case .repositoryNotFound, .branchNotFound, .fileNotFound: .notFound
        case .branchExists, .pushRejected, .dirtyWorktree, .mergeConflict, .destinationExists, .locked, .remoteExists,
            .branchInUse:
            .conflict
        case .remoteRejected, .other: .unprocessableContent
        case .transportFailed: .badGateway
        case .accessDenied: .forbidden
        case .outsideRepository, .schemeNotAllowed, .nothingToCommit, .fileIgnored, .identityUnknown, .noWorktree:
            .badRequest
        case .incomplete: .notImplemented
        }
    }

    package var code: String {
        switch self {
        case .authenticationFailed: "GIT_AUTH_FAILED"
        case .repositoryNotFound: "GIT_REPO_NOT_FOUND"
        case .branchNotFound: "GIT_BRANCH_NOT_FOUND"
        case .branchExists: "GIT_BRANCH_EXISTS"
        case .pushRejected: "GIT_PUSH_REJECTED"
        case .remoteRejected: "GIT_REMOTE_REJECTED"
        case .transportFailed: "GIT_TRANSPORT_FAILED"
        case .dirtyWorktree: "GIT_DIRTY_WORKTREE"
        case .mergeConflict: "GIT_MERGE_CONFLICT"
        case .destinationExists, .locked, .remoteExists, .branchInUse: "CONFLICT"
        case .fileNotFound: "FILE_NOT_FOUND"
        case .outsideRepository: "INVALID_FILE_PATH"
        case .accessDenied: "FILE_ACCESS_DENIED"
        case .schemeNotAllowed, .nothingToCommit, .fileIgnored, .identityUnknown, .noWorktree: "BAD_REQUEST"
        case .incomplete: "NOT_IMPLEMENTED"
        case .other: "UNPROCESSABLE_ENTITY"
        }
    }

    /// What happened and what to do; git's own words follow it.
    package var explanation: String {
        switch self {
        case .authenticationFailed:
            "the remote wants other credentials; check 'username' and 'password' and what they are allowed to do"
        case .repositoryNotFound: "there is no such repository; check the path, the URL or the remote's name"
        case .branchNotFound: "there is no such branch or revision"
        case .branchExists: "a branch of this name exists already; choose another or check it out"
        case .pushRejected: "the remote has commits that are not here; pull, then push again"
        case .remoteRejected: "the remote refused the push by a rule of its own"
        case .transportFailed: "the remote could not be reached, or the connection broke off"
        case .dirtyWorktree: "changes that are not committed would be lost; commit, restore or reset them first"
        case .mergeConflict:
            "there are conflicts; resolve them, then add and commit the files, or reset with mode 'merge' or 'hard'"
        case .destinationExists: "the destination exists and is not empty; choose another path or delete it"
        case .locked:
            "another git is at work here, or one was killed and left its lock file; wait, or delete the file if none runs"
        case .remoteExists: "a remote of this name exists already; pass overwrite to replace it"
        case .fileNotFound: "a file that was named is not there"
        case .outsideRepository: "a file that was named is not in this repository"
        case .accessDenied: "the sandbox's user may not do that here"
        case .schemeNotAllowed: "this kind of URL is not allowed; use https, http, ssh, git or file"
        case .nothingToCommit: "nothing is staged; add files first, or pass allow_empty"
        case .fileIgnored: "a file that was named is ignored by the repository's .gitignore"
        case .identityUnknown: "git does not know who makes the merge; set name and email by /git/config/user"
        case .noWorktree: "the repository is bare, and this needs a working tree"
        case .branchInUse: "the branch is checked out; check out another one first"
        case .incomplete: "the git of this image lacks a part; install it or use another image"
        case .other: "git refused"
        }
    }
}
