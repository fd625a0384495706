import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("Git", .serialized, .timeLimit(.minutes(5)))
    struct GitTests {
        private struct Branches: Decodable {
            var branches: [String]
            var current: String
        }

        private struct Commit: Decodable {
            var hash: String
            var author: String
            var email: String
            var message: String
            var timestamp: String
        }

        private struct Remotes: Decodable {
            struct Remote: Decodable, Equatable {
                var name: String
                var url: String
            }
            var remotes: [Remote]
        }

        private struct Config: Decodable {
            var value: String?
        }

        // MARK: - Clone and init

        @Test("Clone: a branch, a depth, a commit, an abbreviated commit, and one that only a fetch brings")
        func clone() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork("a")
                try await rig.shell(
                    "cd a; for n in 1 2 3; do git commit -q --allow-empty -m c$n; done; git push -q origin main main:side; git checkout -q --detach; git commit -q --allow-empty -m lost; git push -q origin HEAD:refs/hidden/x; git rev-parse HEAD > ../lost"
                )
                let first = try await rig.shell("git -C a rev-parse main~3").dropLast()
                let url = GitRig.Value.string(rig.url("open"))
                #expect(try await rig.post("clone", ["url": url, "path": "b", "branch": "side"]).status == 200)
                #expect(try await rig.status("b").currentBranch == "side")
                #expect(try await rig.post("clone", ["url": url, "path": "c", "depth": 2]).status == 200)
                #expect(try await rig.shell("git -C c rev-list --count HEAD") == "2\n")
                for (path, commit) in [("d", String(first)), ("e", String(first.prefix(8)))] {
                    #expect(
                        try await rig.post("clone", ["url": url, "path": .string(path), "commit_id": .string(commit)])
                            .status == 200
                    )
                    #expect(try await rig.shell("git -C \(path) rev-parse HEAD") == "\(first)\n")
                    let status = try await rig.status(path)
                    #expect(status.detached && status.currentBranch == "HEAD" && status.fileStatus.isEmpty)
                }
                let lost = try rig.daemon.read("lost").dropLast()
                let shallow = try await rig.post(
                    "clone",
                    ["url": url, "path": "f", "depth": 1, "commit_id": .string(String(lost))]
                )
                #expect(shallow.status == 200, "\(shallow.text)")
                #expect(
                    try await rig.shell("git -C f rev-parse HEAD; git -C f rev-list --count HEAD") == "\(lost)\n1\n"
                )
            }
        }

        @Test("A clone that fails leaves nothing, and what was there before stays")
        func failedClone() async throws {
            try await GitRig.run { rig async throws in
                let url = GitRig.Value.string(rig.url("open"))
                try await rig.shell("mkdir empty full; touch full/x")
                let unknown = GitRig.Value.string(String(repeating: "ab", count: 20))
                expectGitError(
                    try await rig.post("clone", ["url": url, "path": "new", "commit_id": unknown]),
                    404,
                    "NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("clone", ["url": url, "path": "empty", "commit_id": unknown]),
                    404,
                    "NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("clone", ["url": url, "path": "new", "commit_id": "abcdef"]),
                    404,
                    "NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("clone", ["url": url, "path": "new", "branch": "nope"]),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                expectGitError(try await rig.post("clone", ["url": url, "path": "full"]), 409, "CONFLICT")
                let missing = GitRig.Value.string(rig.url("open", "none.git"))
                expectGitError(try await rig.post("clone", ["url": missing, "path": "new"]), 404, "GIT_REPO_NOT_FOUND")
                expectGitError(
                    try await rig.post("clone", ["url": "/nowhere", "path": "new"]),
                    404,
                    "GIT_REPO_NOT_FOUND"
                )
                let broken = GitRig.Value.string(rig.url("broken"))
                expectGitError(
                    try await rig.post("clone", ["url": broken, "path": "new"]),
                    502,
                    "GIT_TRANSPORT_FAILED"
                )
                let closed = try await rig.post("clone", ["url": "http://127.0.0.1:1/x", "path": "new"])
                expectGitError(closed, 502, "GIT_TRANSPORT_FAILED")
                #expect(
                    try await rig.shell("ls -A . empty full | tr '\\n' ' '")
                        == ".:\nempty\nfull\n\nempty:\n\nfull:\nx\n".replacingLines()
                )
            }
        }

        @Test("What a clone refuses before git runs")
        func refusedClones() async throws {
            try await GitRig.run { rig async throws in
                let url = GitRig.Value.string(rig.url("open"))
                let bodies: [[String: GitRig.Value]] = [
                    ["url": "ext::sh -c 'touch pwned'", "path": "x"],
                    ["url": "--upload-pack=touch pwned", "path": "x"],
                    ["url": url, "path": "x", "branch": "--upload-pack=touch pwned"],
                    ["url": url, "path": "x", "depth": -1],
                    ["url": url, "path": "x", "commit_id": "--orphan"], ["url": url, "path": "x", "username": "a\nb"],
                    ["url": "git@host:x", "path": "x", "username": "u", "password": "p"], ["url": url], ["path": "x"],
                ]
                for body in bodies {
                    let answer = try await rig.post("clone", body)
                    #expect(answer.status == 400, "\(body): \(answer.text)")
                }
                expectGitError(try await rig.post("clone", ["url": url, "path": ""]), 400, "INVALID_FILE_PATH")
                // A path that looks like an option is a path.
                #expect(try await rig.post("clone", ["url": url, "path": "--bare"]).status == 200)
                #expect(try await rig.shell("ls -A") == "--bare\n")
            }
        }

        @Test("Init: a first branch, a bare one, directories above, twice, and an empty repository's answers")
        func initialize() async throws {
            try await GitRig.run { rig async throws in
                let made = try await rig.post("init", ["path": "deep/er/w", "initial_branch": "trunk"])
                #expect(made.status == 201 && made.text == "")
                #expect(try await rig.post("init", ["path": "deep/er/w"]).status == 201)
                #expect(try await rig.post("init", ["path": "b.git", "bare": true]).status == 201)
                #expect(try await rig.shell("git -C b.git rev-parse --is-bare-repository") == "true\n")
                let status = try await rig.status("deep/er/w")
                #expect(
                    status.currentBranch == "trunk" && !status.detached && status.fileStatus.isEmpty
                        && !status.branchPublished
                )
                let branches = try await rig.get("branches?path=deep/er/w", as: Branches.self)
                #expect(branches.branches == [] && branches.current == "trunk")
                #expect(try await rig.get("history?path=deep/er/w", as: [Commit].self).isEmpty)
                #expect(try await rig.get("remotes?path=deep/er/w", as: Remotes.self).remotes == [])
                expectGitError(
                    try await rig.post("branches", ["path": "deep/er/w", "name": "x"]),
                    409,
                    "CONFLICT",
                    "no commit yet"
                )
                expectGitError(
                    try await rig.daemon.client.call(.GET, "/git/status?path=b.git"),
                    400,
                    "BAD_REQUEST",
                    "bare"
                )
                expectGitError(try await rig.post("init", ["path": "x", "initial_branch": "-x"]), 400, "BAD_REQUEST")
                let empty = try await rig.post("clone", ["url": .string(rig.daemon.path("b.git")), "path": "c"])
                #expect(empty.status == 200, "\(empty.text)")
                #expect(try await rig.status("c").fileStatus.isEmpty)
            }
        }

        // MARK: - Credentials

        @Test("Credentials of a clone, in fields or in its URL, reach the server and stay nowhere")
        func credentials() async throws {
            try await GitRig.run { rig async throws in
                let url = rig.url("private")
                let fields: [String: GitRig.Value] = [
                    "username": .string(GitRig.user), "password": .string(GitRig.password),
                ]
                let answer = try await rig.post("clone", ["url": .string(url), "path": "a"].merging(fields) { $1 })
                #expect(answer.status == 200, "\(answer.text)")
                let encoded = "s3cr%3At'%24(id)%22%20%C3%A9%2540"
                let inURL = url.replacing("http://", with: "http://\(GitRig.user):\(encoded)@")
                let second = try await rig.post("clone", ["url": .string(inURL), "path": "b"])
                #expect(second.status == 200, "\(second.text)")
                #expect(
                    try await rig.get("remotes?path=b", as: Remotes.self).remotes == [.init(name: "origin", url: url)]
                )
                #expect(
                    try await rig.shell(
                        "grep -rFl -e s3cr -e '\(GitRig.password.prefix(4))' a/.git b/.git '\(rig.home)' --exclude-dir=remote || true"
                    ) == ""
                )
                #expect(try await rig.shell("ls -A '\(rig.home)'") == "remote\n")

                try await rig.shell(
                    "git -C a config user.name n; git -C a config user.email e; git -C a commit -q --allow-empty -m x"
                )
                expectGitError(try await rig.post("push", ["path": "a"]), 401, "GIT_AUTH_FAILED")
                expectGitError(try await rig.post("pull", ["path": "a"]), 401, "GIT_AUTH_FAILED")
                #expect(try await rig.post("push", ["path": "a"].merging(fields) { $1 }).status == 200)
                #expect(try await rig.post("pull", ["path": "b"].merging(fields) { $1 }).status == 200)
                #expect(try await rig.get("history?path=b", as: [Commit].self).map(\.message) == ["x\n", "first\n"])
            }
        }

        @Test("Wrong, missing and unwanted credentials, also for a repository that is not there")
        func wrongCredentials() async throws {
            try await GitRig.run { rig async throws in
                let url = GitRig.Value.string(rig.url("private"))
                expectGitError(try await rig.post("clone", ["url": url, "path": "x"]), 401, "GIT_AUTH_FAILED")
                let wrong = try await rig.post(
                    "clone",
                    ["url": url, "path": "x", "username": "alice", "password": "wr0ng"]
                )
                expectGitError(wrong, 401, "GIT_AUTH_FAILED")
                #expect(!wrong.text.contains("wr0ng"))
                let denied = GitRig.Value.string(rig.url("denied"))
                expectGitError(
                    try await rig.post("clone", ["url": denied, "path": "x", "password": "t"]),
                    401,
                    "GIT_AUTH_FAILED"
                )
                let none: [String: GitRig.Value] = [
                    "url": .string(rig.url("private", "none.git")), "path": "x", "username": .string(GitRig.user),
                    "password": .string(GitRig.password),
                ]
                expectGitError(try await rig.post("clone", none), 404, "GIT_REPO_NOT_FOUND")
                try await rig.cloneWork()
                try await rig.shell("git -C w remote add here '\(rig.root)/r.git'")
                let useless = try await rig.post("push", ["path": "w", "remote": "here", "password": "t"])
                expectGitError(useless, 400, "BAD_REQUEST", "https")
            }
        }

        @Test("A server that redirects elsewhere does not get the credentials sent there")
        func redirectedCredentials() async throws {
            try await GitRig.run { rig async throws in
                try await GitRig.run { other async throws in
                    let url = "http://127.0.0.1:\(rig.port)/away/\(other.port)/private/r.git"
                    let body: [String: GitRig.Value] = [
                        "url": .string(url), "path": "x", "username": .string(GitRig.user),
                        "password": .string(GitRig.password),
                    ]
                    expectGitError(try await rig.post("clone", body), 401, "GIT_AUTH_FAILED")
                    #expect(try other.seen().contains("/private/") && !other.seen().contains("Basic"))
                }
            }
        }

        @Test("Stored credentials serve later calls; what is given for one call is not stored beside them")
        func storedCredentials() async throws {
            try await GitRig.run { rig async throws in
                let host = GitRig.Value.string("127.0.0.1:\(rig.port)")
                let stored = try await rig.post(
                    "credentials",
                    [
                        "username": .string(GitRig.user), "password": .string(GitRig.password), "host": host,
                        "protocol": "http",
                    ]
                )
                #expect(stored.status == 200, "\(stored.text)")
                #expect(try await rig.shell("git config --global --get-all credential.helper") == "store\n")
                #expect(try await rig.shell("stat -c %a '\(rig.home)/.git-credentials'") == "600\n")
                #expect(try await rig.post("clone", ["url": .string(rig.url("private")), "path": "a"]).status == 200)
                let again = try await rig.post("credentials", ["username": "u", "password": "p"])
                #expect(again.status == 200)
                #expect(try await rig.shell("git config --global --get-all credential.helper") == "store\n")
                #expect(
                    try await rig.shell(
                        "grep -c . '\(rig.home)/.git-credentials'; grep -c 'https://u:p@github.com' '\(rig.home)/.git-credentials'"
                    ) == "2\n1\n"
                )
                let wrong = try await rig.post(
                    "clone",
                    ["url": .string(rig.url("private")), "path": "b", "password": "no"]
                )
                expectGitError(wrong, 401, "GIT_AUTH_FAILED")
                #expect(
                    try await rig.post("pull", ["path": "a"]).status == 200,
                    "a wrong password for one call erased the stored one"
                )
                for bad in [
                    ["username": "", "password": "x"], ["username": "a\nhost=evil", "password": "x"],
                    ["username": "a", "password": "x", "host": "h\nx"],
                    ["username": "a", "password": "x", "host": "a/b"],
                    ["username": "a", "password": "x", "protocol": "ssh"],
                ] as [[String: GitRig.Value]] {
                    #expect(try await rig.post("credentials", bad).status == 400, "\(bad)")
                }
            }
        }

        // MARK: - Working

        @Test("Add, commit, status and history, with odd names and an author of the call's own")
        func workflow() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.shell(
                    "cd w; echo two >> file; echo x > '*.txt'; echo y > y.txt; echo d > './-dash'; printf z > \"$(printf 'bad\\377')\"; mkdir dir; touch dir/a dir/b; ln -s file link"
                )
                let before = try await rig.status()
                #expect(before.currentBranch == "main" && before.upstream == "origin/main" && before.branchPublished)
                #expect(
                    before.fileStatus.contains(
                        .init(name: "file", extra: "", staging: "Unmodified", worktree: "Modified")
                    )
                )
                #expect(
                    before.fileStatus.contains(
                        .init(name: "dir/b", extra: "", staging: "Untracked", worktree: "Untracked")
                    )
                )
                #expect(before.fileStatus.contains { $0.name == "bad\u{FFFD}" })
                #expect(try await rig.post("add", ["path": "w", "files": ["*.txt", "-dash", "file"]]).status == 200)
                let staged = try await rig.status().fileStatus.filter { $0.staging != "Untracked" }
                #expect(staged.map(\.name).sorted() == ["*.txt", "-dash", "file"], "a star is no pattern")
                let message = "subject\n\n# not a comment\nü\r\nend"
                let commit = try await rig.post(
                    "commit",
                    ["path": "w", "message": .string(message), "author": "Ünï O'Neill", "email": "u@x"]
                )
                #expect(commit.status == 200)
                let hash = try await rig.shell("git -C w rev-parse HEAD").dropLast()
                #expect(commit.text == #"{"hash":"\#(hash)"}"#)
                #expect(try await rig.shell("git -C w log -1 --format='%cn <%ce>'") == "Ünï O'Neill <u@x>\n")
                #expect(try await rig.status().ahead == 1)
                let history = try await rig.get("history?path=w", as: [Commit].self)
                #expect(history.map(\.hash).first == String(hash) && history.count == 2)
                #expect(
                    history[0].author == "Ünï O'Neill" && history[0].email == "u@x"
                        && history[0].message.hasPrefix("subject\n\n# not")
                )
                #expect(history[0].timestamp.count >= 20 && history[0].timestamp.contains("T"))
                #expect(try await rig.post("add", ["path": "w", "files": ["."]]).status == 200)
                try await rig.shell("cd w; git mv file moved; rm y.txt")
                let mixed = try await rig.status().fileStatus
                #expect(mixed.contains(.init(name: "moved", extra: "file", staging: "Renamed", worktree: "Unmodified")))
                #expect(mixed.contains(.init(name: "y.txt", extra: "", staging: "Added", worktree: "Deleted")))
                #expect(
                    try await rig.post("add", ["path": "w", "files": ["y.txt"]]).status == 200,
                    "a deletion is added too"
                )
            }
        }

        @Test("What add and commit refuse")
        func refusedWork() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.shell("cd w; echo ignored > .gitignore; touch ignored; mkdir -p plain/sub")
                func add(_ files: GitRig.Value) async throws -> TestClient.Answer {
                    try await rig.post("add", ["path": "w", "files": files])
                }
                expectGitError(try await add([]), 400, "BAD_REQUEST")
                expectGitError(try await add([""]), 400, "INVALID_FILE_PATH")
                expectGitError(try await add(["file", "none"]), 404, "FILE_NOT_FOUND", "none")
                expectGitError(try await add(["/etc/passwd"]), 400, "INVALID_FILE_PATH", "/etc/passwd")
                expectGitError(try await add(["../x"]), 400, "INVALID_FILE_PATH")
                expectGitError(try await add(["ignored"]), 400, "BAD_REQUEST", "ignored")
                let commit: [String: GitRig.Value] = ["path": "w", "message": "m", "author": "a", "email": "e"]
                expectGitError(try await rig.post("commit", commit), 400, "BAD_REQUEST", "staged")
                for bad in [
                    ["message": " \n"], ["message": "a\0"], ["author": "<>"], ["email": "a\nb"], ["author": "x\nGIT"],
                ] as [[String: GitRig.Value]] {
                    expectGitError(try await rig.post("commit", commit.merging(bad) { $1 }), 400, "BAD_REQUEST")
                }
                #expect(try await rig.post("commit", commit.merging(["allow_empty": true]) { $1 }).status == 200)
                try await rig.shell(
                    "printf '#!/bin/sh\\necho no >&2; exit 1\\n' > w/.git/hooks/pre-commit; chmod +x w/.git/hooks/pre-commit"
                )
                let hooked = try await rig.post("commit", commit.merging(["allow_empty": true]) { $1 })
                expectGitError(hooked, 422, "UNPROCESSABLE_ENTITY", "no")
                // The root must be named: nothing above it is touched.
                expectGitError(
                    try await rig.daemon.client.call(.GET, "/git/status?path=w/plain/sub"),
                    404,
                    "GIT_REPO_NOT_FOUND"
                )
                expectGitError(
                    try await rig.daemon.client.call(.GET, "/git/status?path=none"),
                    404,
                    "GIT_REPO_NOT_FOUND",
                    "none"
                )
                expectGitError(
                    try await rig.daemon.client.call(.GET, "/git/status?path=w/file"),
                    404,
                    "GIT_REPO_NOT_FOUND"
                )
                expectGitError(try await rig.daemon.client.call(.GET, "/git/status"), 400, "BAD_REQUEST", "path")
            }
        }

        @Test("Branches: list, create, check out, from a remote, a revision, delete, and their errors")
        func branches() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.shell("git -C w push -q origin main:theirs; git -C w fetch -q")
                #expect(try await rig.post("branches", ["path": "w", "name": "feature/x"]).status == 201)
                let listed = try await rig.get("branches?path=w", as: Branches.self)
                #expect(listed.branches == ["feature/x", "main"] && listed.current == "main")
                expectGitError(try await rig.post("branches", ["path": "w", "name": "main"]), 409, "GIT_BRANCH_EXISTS")
                for name in ["-D", "a b", "", "HEAD"] as [GitRig.Value] {
                    expectGitError(try await rig.post("branches", ["path": "w", "name": name]), 400, "BAD_REQUEST")
                }
                #expect(try await rig.post("checkout", ["path": "w", "branch": "feature/x"]).status == 200)
                let status = try await rig.status()
                #expect(status.currentBranch == "feature/x" && !status.branchPublished && status.upstream == "")
                expectGitError(
                    try await rig.post("branches", ["path": "w", "name": "feature/x"], method: .DELETE),
                    409,
                    "CONFLICT"
                )
                #expect(try await rig.post("checkout", ["path": "w", "branch": "theirs"]).status == 200)
                #expect(try await rig.status().upstream == "origin/theirs")
                #expect(try await rig.post("checkout", ["path": "w", "branch": "HEAD~0"]).status == 200)
                #expect(try await rig.get("branches?path=w", as: Branches.self).current == "")
                let gone = try await rig.post("branches", ["path": "w", "name": "feature/x"], method: .DELETE)
                #expect(gone.status == 204 && gone.text == "")
                expectGitError(
                    try await rig.post("branches", ["path": "w", "name": "feature/x"], method: .DELETE),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("checkout", ["path": "w", "branch": "nope"]),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("checkout", ["path": "w", "branch": "file"]),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("checkout", ["path": "w", "branch": "--orphan=x"]),
                    400,
                    "BAD_REQUEST"
                )
                try await rig.shell(
                    "cd w; git checkout -q -b other; echo o > file; git commit -qam o; git checkout -q main; echo dirty > file"
                )
                expectGitError(
                    try await rig.post("checkout", ["path": "w", "branch": "other"]),
                    409,
                    "GIT_DIRTY_WORKTREE",
                    "file"
                )
            }
        }

        @Test("Reset and restore: modes, targets, files, and their errors")
        func resetAndRestore() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.shell(
                    "cd w; echo two > file; git commit -qam second; echo three > file; echo new > '*'; git add ."
                )
                func reset(_ more: [String: GitRig.Value]) async throws -> TestClient.Answer {
                    try await rig.post("reset", ["path": "w"].merging(more) { $1 })
                }
                #expect(try await reset(["files": ["*"]]).status == 200)
                #expect(try await rig.shell("git -C w diff --cached --name-only") == "file\n", "a star is no pattern")
                #expect(try await reset([:]).status == 200)
                #expect(try await rig.shell("git -C w diff --cached --name-only") == "")
                expectGitError(try await reset(["mode": "keep", "target": "HEAD~1"]), 409, "GIT_DIRTY_WORKTREE")
                #expect(try await reset(["files": ["file"], "target": "HEAD~1"]).status == 200)
                #expect(try await rig.shell("git -C w show :file") == "one\n")
                #expect(try await reset(["mode": "hard", "target": "HEAD~1"]).status == 200)
                #expect(try rig.daemon.read("w/file") == "one\n")
                #expect(try await reset(["mode": "soft", "target": "ORIG_HEAD"]).status == 200)
                #expect(try await reset(["mode": "mixed", "target": "HEAD"]).status == 200)
                expectGitError(try await reset(["target": "nope"]), 404, "NOT_FOUND", "nope")
                expectGitError(try await reset(["target": "--hard"]), 400, "BAD_REQUEST")
                expectGitError(try await reset(["mode": "gentle"]), 400, "BAD_REQUEST", "soft, mixed")
                expectGitError(try await reset(["mode": "hard", "files": ["file"]]), 400, "BAD_REQUEST")

                func restore(_ more: [String: GitRig.Value]) async throws -> TestClient.Answer {
                    try await rig.post("restore", ["path": "w", "files": ["file"]].merging(more) { $1 })
                }
                try await rig.shell("cd w; git reset -q --hard; echo changed > file; git add file; echo more > file")
                #expect(try await restore([:]).status == 200)
                #expect(try rig.daemon.read("w/file") == "changed\n")
                #expect(try await restore(["staged": true]).status == 200)
                #expect(try rig.daemon.read("w/file") == "changed\n")
                #expect(try await rig.shell("git -C w diff --cached --name-only") == "")
                #expect(try await restore(["source": "HEAD~1", "staged": true, "worktree": true]).status == 200)
                #expect(try rig.daemon.read("w/file") == "one\n")
                expectGitError(try await restore(["files": ["none"]]), 404, "FILE_NOT_FOUND", "none")
                expectGitError(try await restore(["source": "nope"]), 404, "NOT_FOUND")
                expectGitError(try await restore(["staged": false, "worktree": false]), 400, "BAD_REQUEST")
                expectGitError(try await restore(["files": []]), 400, "BAD_REQUEST")
            }
        }

        // MARK: - Remotes

        @Test("Remotes: add, list, fetch, overwrite, and a new one whose fetch fails does not stay")
        func remotes() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                let url = rig.url("open")
                #expect(
                    try await rig.post("remotes", ["path": "w", "name": "up", "url": .string(url), "fetch": true])
                        .status == 201
                )
                #expect(try await rig.shell("git -C w rev-parse up/main").count == 41)
                expectGitError(
                    try await rig.post("remotes", ["path": "w", "name": "up", "url": "https://host/x"]),
                    409,
                    "CONFLICT",
                    "overwrite"
                )
                try await rig.shell("git -C w config remote.up.pushurl https://old/x")
                #expect(
                    try await rig.post(
                        "remotes",
                        ["path": "w", "name": "up", "url": "https://host/x", "overwrite": true]
                    ).status == 201
                )
                #expect(try await rig.shell("git -C w remote get-url --push up") == "https://host/x\n")
                #expect(
                    try await rig.post(
                        "remotes",
                        ["path": "w", "name": "third", "url": "git@host:x", "overwrite": true]
                    ).status == 201
                )
                let missing = GitRig.Value.string(rig.url("open", "none.git"))
                let failed = try await rig.post("remotes", ["path": "w", "name": "bad", "url": missing, "fetch": true])
                expectGitError(failed, 404, "GIT_REPO_NOT_FOUND")
                for body in [["name": "a:b"], ["name": "-f"], ["url": "ext::sh -c id"], ["url": "-x"]]
                    as [[String: GitRig.Value]]
                {
                    let whole: [String: GitRig.Value] = ["path": "w", "name": "n", "url": "https://h/x"]
                    expectGitError(try await rig.post("remotes", whole.merging(body) { $1 }), 400, "BAD_REQUEST")
                }
                let listed = try await rig.get("remotes?path=w", as: Remotes.self).remotes
                #expect(
                    listed == [
                        .init(name: "origin", url: url), .init(name: "up", url: "https://host/x"),
                        .init(name: "third", url: "git@host:x"),
                    ]
                )
            }
        }

        @Test("Push: the current branch, a named one with its upstream, nothing to do, and its errors")
        func push() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.cloneWork("other")
                try await rig.shell("cd w; git commit -q --allow-empty -m mine; git branch topic; git branch solo")
                #expect(try await rig.post("push", ["path": "w"]).status == 200)
                #expect(try await rig.post("push", ["path": "w"]).status == 200, "already up to date")
                #expect(
                    try await rig.post("push", ["path": "w", "branch": "topic", "set_upstream": true]).status == 200
                )
                #expect(try await rig.shell("git -C w rev-parse --abbrev-ref topic@{u}") == "origin/topic\n")
                #expect(try await rig.post("push", ["path": "w", "branch": "solo"]).status == 200)
                try await rig.shell("git -C w checkout -q solo")
                let solo = try await rig.status()
                #expect(solo.branchPublished && solo.upstream == "", "published without an upstream")
                expectGitError(
                    try await rig.post("push", ["path": "w", "branch": "nope"]),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                expectGitError(try await rig.post("push", ["path": "w", "remote": "nope"]), 404, "GIT_REPO_NOT_FOUND")
                expectGitError(try await rig.post("push", ["path": "w", "remote": "--force"]), 400, "BAD_REQUEST")
                expectGitError(
                    try await rig.post("push", ["path": "w", "branch": "+main"]),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                try await rig.shell("git -C other commit -q --allow-empty -m late")
                expectGitError(try await rig.post("push", ["path": "other"]), 409, "GIT_PUSH_REJECTED", "pull")
                try await rig.shell("git -C w checkout -q --detach")
                expectGitError(try await rig.post("push", ["path": "w"]), 400, "BAD_REQUEST", "detached")
                try await rig.shell(
                    "printf '#!/bin/sh\\necho house rules >&2; exit 1\\n' > '\(rig.root)/r.git/hooks/pre-receive'; chmod +x '\(rig.root)/r.git/hooks/pre-receive'"
                )
                try await rig.shell("git -C w checkout -q main; git -C w commit -q --allow-empty -m more")
                expectGitError(try await rig.post("push", ["path": "w"]), 422, "GIT_REMOTE_REJECTED", "house rules")
            }
        }

        @Test("Pull: forward, merge, nothing to do, by name, without an upstream, and its errors")
        func pull() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.cloneWork("other")
                try await rig.shell(
                    "cd other; echo theirs > theirs; git add .; git commit -qm theirs; git push -q origin main main:side"
                )
                #expect(try await rig.post("pull", ["path": "w"]).status == 200)
                #expect(try await rig.post("pull", ["path": "w"]).status == 200, "already up to date")
                #expect(try rig.daemon.read("w/theirs") == "theirs\n")
                try await rig.shell("cd other; echo 2 > theirs; git commit -qam 2; git push -q origin main")
                try await rig.shell("cd w; echo mine > mine; git add .; git commit -qm mine; git fetch -q")
                let apart = try await rig.status()
                #expect((apart.ahead, apart.behind) == (1, 1))
                #expect(try await rig.post("pull", ["path": "w", "remote": "origin"]).status == 200)
                #expect(try await rig.shell("git -C w log -1 --format=%P").split(separator: " ").count == 2, "a merge")
                #expect(try await rig.post("pull", ["path": "w", "branch": "side"]).status == 200)
                try await rig.shell("cd w; git checkout -q -b main2 main~1; git branch -m main2 side")
                #expect(
                    try await rig.post("pull", ["path": "w"]).status == 200,
                    "the branch of the same name, without an upstream"
                )
                expectGitError(
                    try await rig.post("pull", ["path": "w", "branch": "nope"]),
                    404,
                    "GIT_BRANCH_NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("pull", ["path": "w", "remote": "nope", "branch": "main"]),
                    404,
                    "GIT_REPO_NOT_FOUND"
                )
                expectGitError(
                    try await rig.post("pull", ["path": "w", "remote": "ext::sh -c id"]),
                    400,
                    "BAD_REQUEST"
                )
                // A hostile repository's own settings do not lead to a helper either.
                try await rig.shell(
                    "git -C w config remote.evil.url 'ext::sh -c touch% pwned'; git -C w config protocol.ext.allow always"
                )
                expectGitError(
                    try await rig.post("pull", ["path": "w", "remote": "evil", "branch": "x"]),
                    400,
                    "BAD_REQUEST",
                    "https, http, ssh"
                )
                #expect(!FileManager.default.fileExists(atPath: rig.daemon.path("w/pwned")))
            }
        }

        @Test("A pull over changes is refused; one with conflicts says so, shows them, and they can be resolved")
        func conflict() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.cloneWork("other")
                try await rig.shell("cd other; echo theirs > file; git commit -qam theirs; git push -q origin main")
                try await rig.shell("cd w; echo dirty > file")
                expectGitError(try await rig.post("pull", ["path": "w"]), 409, "GIT_DIRTY_WORKTREE", "file")
                #expect(try rig.daemon.read("w/file") == "dirty\n")
                try await rig.shell("cd w; git commit -qam mine")
                expectGitError(try await rig.post("pull", ["path": "w"]), 409, "GIT_MERGE_CONFLICT", "file")
                let status = try await rig.status()
                #expect(
                    status.fileStatus == [
                        .init(
                            name: "file",
                            extra: "both modified",
                            staging: "Updated but unmerged",
                            worktree: "Updated but unmerged"
                        )
                    ]
                )
                expectGitError(try await rig.post("pull", ["path": "w"]), 409, "GIT_MERGE_CONFLICT")
                let commit: [String: GitRig.Value] = ["path": "w", "message": "m", "author": "a", "email": "e"]
                expectGitError(try await rig.post("commit", commit), 409, "GIT_MERGE_CONFLICT")
                try await rig.shell("echo both > w/file")
                #expect(try await rig.post("add", ["path": "w", "files": ["file"]]).status == 200)
                #expect(try await rig.post("commit", commit).status == 200)
                #expect(try await rig.post("push", ["path": "w"]).status == 200)
            }
        }

        @Test("A merge without an identity says how to set one; it is set by the call for it")
        func identity() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.cloneWork("other")
                try await rig.shell(
                    "cd other; touch a; git add a; git commit -qm a; git push -q; cd ../w; touch b; git add b; git commit -qm b"
                )
                try await rig.shell(
                    "cd w; git config --unset user.name; git config --unset user.email; git config user.useConfigOnly true"
                )
                expectGitError(try await rig.post("pull", ["path": "w"]), 400, "BAD_REQUEST", "/git/config/user")
                #expect(
                    try await rig.post("config/user", ["name": "Ü N", "email": "u@x", "scope": "local", "path": "w"])
                        .status == 200
                )
                #expect(try await rig.post("pull", ["path": "w"]).status == 200)
                #expect(try await rig.shell("git -C w log -1 --format='%an %ae'") == "Ü N u@x\n")
                expectGitError(
                    try await rig.post("config/user", ["name": "<>", "email": "u@x"]),
                    400,
                    "BAD_REQUEST",
                    "name"
                )
            }
        }

        // MARK: - Settings

        @Test("Settings: scopes, unset, odd values, several values, and what is refused")
        func config() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                func get(_ query: String) async throws -> String? {
                    try await rig.get("config?\(query)", as: Config.self).value
                }
                let unset = try await rig.daemon.client.call(.GET, "/git/config?key=a.b")
                #expect(unset.status == 200 && unset.text == #"{"value":null}"#)
                #expect(try await rig.post("config", ["key": "a.b", "value": "-x = \"ü\"\n# y"]).status == 200)
                #expect(try await get("key=a.b") == "-x = \"ü\"\n# y")
                #expect(try await rig.shell("git config --global a.b") == "-x = \"ü\"\n# y\n")
                #expect(try await get("key=a.b&scope=local&path=w") == nil)
                #expect(
                    try await rig.post("config", ["key": "a.b", "value": "", "scope": "local", "path": "w"]).status
                        == 200
                )
                #expect(try await get("key=a.b&scope=local&path=w") == "")
                try await rig.shell("git config --global --add a.m 1; git config --global --add a.m 2")
                #expect(try await get("key=a.m") == "2")
                #expect(try await rig.post("config", ["key": "a.m", "value": "3"]).status == 200)
                #expect(try await rig.shell("git config --global --get-all a.m") == "3\n")
                #expect(try await rig.post("config/user", ["name": "n", "email": "e@x"]).status == 200)
                #expect(try await get("key=user.name&scope=global") == "n")
                #expect(try await get("key=user.email") == "e@x")
                for bad in [
                    ["key": "a.b", "value": "x", "scope": "local"], ["key": "a.b", "value": "x", "scope": "worktree"],
                    ["key": "--list", "value": "x"], ["key": "a.b\nc.d", "value": "x"],
                    ["key": "a.b", "value": "x\0y"],
                ] as [[String: GitRig.Value]] {
                    expectGitError(try await rig.post("config", bad), 400, "BAD_REQUEST")
                }
                let nowhere = try await rig.post("config", ["key": "a.b", "value": "x", "scope": "local", "path": "/"])
                expectGitError(nowhere, 404, "GIT_REPO_NOT_FOUND")
            }
        }

        // MARK: - Ends

        @Test("When the client hangs up, git and its transport end, no lock stays, and half a clone is removed")
        func hangUp() async throws {
            try await GitRig.run { rig async throws in
                let body = #"{"url":"\#(rig.url("stalled"))","path":"x"}"#
                try await rig.daemon.client.callAndHangUp(.POST, "/git/clone", body: body, after: .milliseconds(700))
                #expect(try await eventually(.seconds(60)) { rig.daemon.daemon.processCount == 0 })
                #expect(try await eventually { processes(holding: ":\(rig.port)/stalled") == [] })
                #expect(try await eventually { try await rig.shell("ls -A") == "" })
            }
        }

        @Test("A hook that leaves a process behind, with git's pipes, does not hold the call")
        func leftBehind() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                let mark = "8\(UInt32.random(in: 100_000...999_999))"
                try await rig.shell(
                    "printf '#!/bin/sh\\nsetsid sleep \(mark) &\\n' > w/.git/hooks/post-commit; chmod +x w/.git/hooks/post-commit"
                )
                let started = ContinuousClock.now
                let commit: [String: GitRig.Value] = [
                    "path": "w", "message": "m", "author": "a", "email": "e", "allow_empty": true,
                ]
                #expect(try await rig.post("commit", commit).status == 200)
                #expect(ContinuousClock.now - started < .seconds(60))
                #expect(processes(holding: "sleep \(mark)").count == 1)
            }
        }

        @Test("A status of more than the limit's files lists directories; nothing hangs on a repository that asks")
        func limits() async throws {
            try await GitRig.run { rig async throws in
                try await rig.cloneWork()
                try await rig.shell("cd w; mkdir many; cd many; seq \(GitLimit.statusFiles + 1) | xargs touch")
                #expect(
                    try await rig.status().fileStatus == [
                        .init(name: "many/", extra: "", staging: "Untracked", worktree: "Untracked")
                    ]
                )
                // An editor, a pager and a prompt that a repository configures are not waited for.
                try await rig.shell(
                    "cd w; rm -r many; git config core.editor 'sleep 600'; git config core.pager 'sleep 600'; git config core.askPass 'sleep 600'"
                )
                #expect(try await rig.get("history?path=w", as: [Commit].self).count == 1)
                try await rig.shell("git -C w remote set-url origin '\(rig.url("private"))'")
                expectGitError(try await rig.post("pull", ["path": "w"]), 401, "GIT_AUTH_FAILED")
            }
        }

        @Test("An image without git answers so")
        func withoutGit() async throws {
            try await TestDaemon.run(environment: ["PATH": "/nonexistent"]) { daemon async throws in
                let answer = try await daemon.client.call(.POST, "/git/init", body: #"{"path":"x"}"#)
                expectGitError(answer, 501, "NOT_IMPLEMENTED", "git is not in this sandbox")
            }
        }
    }
}

extension String {
    /// Lines joined by spaces, as `tr` does it.
    fileprivate func replacingLines() -> String { String(map { $0 == "\n" ? " " : $0 }) }
}

extension DaemonSuites {
    /// How a git that must end is ended, shown on shells that take it more or less well.
    @Suite("Running git", .timeLimit(.minutes(5)))
    struct RunningGitTests {
        private let table = ProcessTable()

        private func start(_ script: String) async throws -> RunningGit {
            var program = ProgramSpecification(
                executable: "/bin/sh",
                arguments: ["sh", "-c", script],
                environment: ["PATH": "/usr/bin:/bin"],
                directory: "/"
            )
            program.streams = .apart
            return RunningGit(try await table.launch(program, on: MultiThreadedEventLoopGroup.singleton.next()))
        }

        @Test("It is asked first, and may clean up; the first reason counts")
        func asked() async throws {
            let directory = try makeTemporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: directory) }
            let running = try await start(
                "trap 'echo cleaned >&2; exit 9' TERM; touch \(directory)/ready; while :; do sleep 0.05; done"
            )
            async let result = running.collect(ByteBuffer(string: "not read"))
            #expect(try await eventually { FileManager.default.fileExists(atPath: "\(directory)/ready") })
            running.end(.expired)
            running.end(.abandoned)
            #expect(try await result.errors.hasSuffix("cleaned\n"))
            #expect(try await result.exitCode == 9 && running.reason == .expired)
            #expect(try await eventually { table.count == 0 })
        }

        @Test("What does not end when asked is killed, with what left its session")
        func killed() async throws {
            let mark = "3\(UInt32.random(in: 100_000...999_999))"
            let running = try await start("trap '' TERM; setsid sleep \(mark) & while :; do sleep \(mark); done")
            async let result = running.collect(ByteBuffer())
            // The shell, whose script holds the number too, and both sleeps.
            #expect(try await eventually { processes(holding: mark).count == 3 })
            running.end(.abandoned)
            #expect(try await result.exitCode == 137)
            #expect(try await eventually(.seconds(60)) { table.count == 0 && processes(holding: mark).isEmpty })
        }

        @Test("Endless output is cut at the limit and ends it; errors keep both ends; input larger than a pipe arrives")
        func bounded() async throws {
            let endless = try await start("yes")
            let result = try await endless.collect(ByteBuffer())
            #expect(result.output.readableBytes == GitLimit.outputBytes && endless.reason == .overflowed)
            let noisy = try await start("echo first >&2; seq 100000 >&2; echo last >&2; wc -c")
            let told = try await noisy.collect(ByteBuffer(repeating: 65, count: 1 << 20))
            #expect(
                told.errors.hasPrefix("first\n") && told.errors.hasSuffix("last\n") && told.errors.utf8.count < 40_000
            )
            #expect(told.text == "1048576" && noisy.reason == nil)
            #expect(try await eventually { table.count == 0 })
        }

        @Test("A program that is not there is an error of the call, and leaves nothing")
        func missing() async throws {
            var program = ProgramSpecification(
                executable: "/nonexistent",
                arguments: ["git"],
                environment: [:],
                directory: "/"
            )
            program.streams = .apart
            let tree = try await table.launch(program, on: MultiThreadedEventLoopGroup.singleton.next())
            await #expect(throws: LaunchFailure.self) { try await RunningGit(tree).collect(ByteBuffer()) }
            #expect(try await eventually { table.count == 0 })
        }
    }
}
