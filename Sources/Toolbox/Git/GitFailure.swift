/// The error for a run of git that failed.
package func gitFailure(_ title: String, _ result: GitResult) -> ToolboxError {
    let problem = classifyFailure(output: result.text, errors: result.errors)
    let words = quotedWords(output: result.text, errors: result.errors)
    let reason = words.isEmpty ? "it ended with code \(result.exitCode)" : words
    return ToolboxError(problem.status, problem.code, "\(title) failed: \(problem.explanation). Git says: \(reason)")
}

/// What went wrong, by what git wrote in the C locale. Lines that repeat what a remote or the names of files say are not
/// looked at, so that neither chooses the error.
package func classifyFailure(output: String, errors: String) -> GitProblem {
    let lines = (linesOf(errors) + linesOf(output)).filter { line in
        !line.hasPrefix("remote:") && line.utf8.first != UInt8(ascii: "\t")
    }
    let rule = rules.first { rule in
        lines.contains { $0.hasPrefix(rule.start) && (rule.part.isEmpty || $0.contains(rule.part)) }
    }
    return rule?.problem ?? .other
}

/// A line that begins so and holds that means this. Of several rules that fit, the first counts: the causes come before
/// what git says in consequence.
private struct FailureRule {
    var start: String
    var part: String
    var problem: GitProblem

    init(_ start: String, _ problem: GitProblem) {
        self.init(start, "", problem)
    }

    init(_ start: String, _ part: String, _ problem: GitProblem) {
        (self.start, self.part, self.problem) = (start, part, problem)
    }
}

private let rules: [FailureRule] = [
    FailureRule("!\t", "[rejected]", .pushRejected),
    FailureRule("!\t", "[remote rejected]", .remoteRejected),
    FailureRule("!\t", "[remote failure]", .remoteRejected),

    FailureRule("fatal: transport '", "' not allowed", .schemeNotAllowed),
    FailureRule("git: 'remote-", "is not a git command", .incomplete),
    FailureRule("fatal: Unable to find remote helper for ", .incomplete),
    FailureRule("error: cannot run ssh", .incomplete),

    FailureRule("fatal: Authentication failed for ", .authenticationFailed),
    FailureRule("fatal: could not read Username for ", .authenticationFailed),
    FailureRule("fatal: could not read Password for ", .authenticationFailed),
    FailureRule("fatal: unable to access ", "returned error: 401", .authenticationFailed),
    FailureRule("fatal: unable to access ", "returned error: 403", .authenticationFailed),
    FailureRule("error: RPC failed; HTTP 401", .authenticationFailed),
    FailureRule("error: RPC failed; HTTP 403", .authenticationFailed),
    FailureRule("", "Permission denied (publickey", .authenticationFailed),
    FailureRule("Permission denied, please try again", .authenticationFailed),

    FailureRule("fatal: detected dubious ownership", .accessDenied),
    FailureRule("fatal: unsafe repository (", .accessDenied),
    FailureRule("fatal: not a git repository", .repositoryNotFound),
    FailureRule("fatal: --local can only be used inside a git repository", .repositoryNotFound),
    FailureRule("fatal: repository '", "not found", .repositoryNotFound),
    FailureRule("fatal: repository '", "does not exist", .repositoryNotFound),
    FailureRule("fatal: '", "does not appear to be a git repository", .repositoryNotFound),
    FailureRule("fatal: No such remote", .repositoryNotFound),
    FailureRule("error: No such remote", .repositoryNotFound),
    FailureRule("ERROR: Repository not found", .repositoryNotFound),
    FailureRule("fatal: remote error: access denied or repository not exported", .repositoryNotFound),

    FailureRule("fatal: Remote branch ", "not found", .branchNotFound),
    FailureRule("fatal: couldn't find remote ref ", .branchNotFound),
    FailureRule("fatal: Couldn't find remote ref ", .branchNotFound),
    FailureRule("error: branch '", "not found", .branchNotFound),
    FailureRule("fatal: invalid reference: ", .branchNotFound),
    FailureRule("error: src refspec ", "does not match any", .branchNotFound),
    FailureRule("fatal: a branch named '", "already exists", .branchExists),
    FailureRule("fatal: A branch named '", "already exists", .branchExists),
    FailureRule("error: Cannot delete branch '", .branchInUse),
    FailureRule("error: cannot delete branch '", .branchInUse),

    FailureRule("error: Your local changes to the following files would be", .dirtyWorktree),
    FailureRule("error: The following untracked working tree files would be", .dirtyWorktree),
    FailureRule("error: Updating the following directories would lose untracked files", .dirtyWorktree),
    FailureRule("error: Entry '", "not uptodate", .dirtyWorktree),
    FailureRule("error: Untracked working tree file '", "would be overwritten", .dirtyWorktree),
    FailureRule("error: cannot pull with rebase", .dirtyWorktree),
    FailureRule("CONFLICT (", .mergeConflict),
    FailureRule("Automatic merge failed", .mergeConflict),
    FailureRule("error: you need to resolve your current index first", .mergeConflict),
    FailureRule("error: ", "because you have unmerged files", .mergeConflict),
    FailureRule("error: path '", "is unmerged", .mergeConflict),
    FailureRule("fatal: You have not concluded your merge", .mergeConflict),
    FailureRule("error: You have not concluded your merge", .mergeConflict),
    FailureRule("fatal: Cannot do a soft reset in the middle of a merge", .mergeConflict),
    FailureRule("fatal: Not possible to fast-forward", .mergeConflict),
    FailureRule("fatal: refusing to merge unrelated histories", .mergeConflict),

    FailureRule("fatal: destination path '", "already exists and is not an empty directory", .destinationExists),
    FailureRule("error: remote ", "already exists", .remoteExists),
    FailureRule("fatal: remote ", "already exists", .remoteExists),
    FailureRule("", ".lock': File exists", .locked),
    FailureRule("error: could not lock config file ", "File exists", .locked),
    FailureRule("fatal: ", "is outside repository", .outsideRepository),
    FailureRule("fatal: pathspec '", "did not match any file", .fileNotFound),
    FailureRule("error: pathspec '", "did not match any file", .fileNotFound),
    FailureRule("The following paths are ignored by one of your .gitignore files", .fileIgnored),
    FailureRule("*** Please tell me who you are", .identityUnknown),
    FailureRule("fatal: this operation must be run in a work tree", .noWorktree),
    FailureRule("error: ", "Permission denied", .accessDenied),
    FailureRule("fatal: ", "Permission denied", .accessDenied),
    FailureRule("nothing to commit", .nothingToCommit),
    FailureRule("nothing added to commit", .nothingToCommit),
    FailureRule("no changes added to commit", .nothingToCommit),

    FailureRule("fatal: unable to access ", .transportFailed),
    FailureRule("fatal: unable to connect to ", .transportFailed),
    FailureRule("fatal: Unable to look up ", .transportFailed),
    FailureRule("fatal: unable to look up ", .transportFailed),
    FailureRule("error: RPC failed", .transportFailed),
    FailureRule("fatal: Could not read from remote repository", .transportFailed),
    FailureRule("fatal: The remote end hung up", .transportFailed),
    FailureRule("fatal: the remote end hung up", .transportFailed),
    FailureRule("fatal: early EOF", .transportFailed),
    FailureRule("fatal: protocol error", .transportFailed),
    FailureRule("fatal: expected flush after ref listing", .transportFailed),
    FailureRule("fatal: remote error: ", .transportFailed),
    FailureRule("fatal: bad object ", .other),
]

/// What git said, for the message: without its hints, passwords and most of a long list.
private func quotedWords(output: String, errors: String) -> String {
    // Git tells of conflicts, of what a push came to and of nothing to commit on its standard output.
    let told = linesOf(output).filter { line in
        ["CONFLICT", "Automatic merge", "!\t", "nothing ", "no changes "].contains { line.hasPrefix($0) }
    }
    let lines = linesOf(errors).filter { !$0.hasPrefix("hint:") } + told
    let text = withoutPasswords(lines.joined(separator: "\n"))
    guard text.utf8.count > GitLimit.quotedBytes else { return text }
    return String(decoding: text.utf8.prefix(GitLimit.quotedBytes), as: UTF8.self) + " […]"
}

/// By bytes: to Swift, a line feed behind a carriage return is no character of its own.
private func linesOf(_ text: String) -> [String] {
    text.utf8.split { $0 == 10 || $0 == 13 }.map { String(decoding: $0, as: UTF8.self) }
}

/// Replaces the user name and password of each URL in a text.
package func withoutPasswords(_ text: String) -> String {
    var result = ""
    var rest = text[...]
    while let start = rest.firstRange(of: "://") {
        result += rest[..<start.upperBound]
        rest = rest[start.upperBound...]
        let authority = rest.prefix { !$0.isWhitespace && !"/'\"".contains($0) }
        if let at = authority.lastIndex(of: "@"), authority[..<at].contains(":") {
            result += "***"
            rest = rest[at...]
        }
    }
    return result + rest
}
