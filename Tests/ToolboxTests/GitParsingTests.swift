import NIOCore
import Testing

@testable import Toolbox

/// Git's arguments, messages and status, without git.
@Suite("Git words")
struct GitParsingTests {
    // MARK: - What requests may say

    @Test("Names of branches follow git's rules, and none can be an option")
    func branchNames() throws {
        for good in ["main", "feature/x", "a.b", "ünï-漢", "x@y", "v1.0", "(detached)", "a-b", "1"] {
            #expect(try BranchName(good, field: "name").operand == good)
        }
        let bad = [
            "", "-x", "--upload-pack=touch /tmp/x", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "/a",
            "a/",
            "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "@", "a@{b", "HEAD", "a\nb", "a\r\nb", "a\0b", "a\u{7f}",
            String(repeating: "x", count: GitLimit.refNameBytes + 1),
        ]
        for name in bad {
            #expect(throws: ToolboxError.self, "\(name)") { try BranchName(name, field: "name") }
        }
    }

    @Test("A remote's name is no URL and no option, a revision no option, a commit only a hash")
    func otherNames() throws {
        #expect(try RemoteName("up/stream", field: "remote").operand == "up/stream")
        for name in ["", "-f", "ext::sh -c id", "https://host/x", "a:b", "a b"] {
            #expect(throws: ToolboxError.self, "\(name)") { try RemoteName(name, field: "remote") }
        }
        for text in ["HEAD", "HEAD~2", "main@{1}", "v1^{tree}", ":/words of it"] {
            #expect(try GitRevision(text, field: "target").operand == text)
        }
        for text in ["", "-", "--hard", "a\nb", "a\0", String(repeating: "x", count: GitLimit.revisionBytes + 1)] {
            #expect(throws: ToolboxError.self, "\(text)") { try GitRevision(text, field: "target") }
        }
        #expect(try CommitHash("abcD0123", field: "commit_id").operand == "abcD0123")
        for text in ["", "abc", "HEAD", "-abcd", "abcg", String(repeating: "a", count: 65)] {
            #expect(throws: ToolboxError.self, "\(text)") { try CommitHash(text, field: "commit_id") }
        }
    }

    @Test("Keys of settings have a section and a name")
    func configKeys() throws {
        for key in ["user.name", "branch.ünï/x.remote", "credential.https://a.b.helper", "http.extraHeader"] {
            #expect(try ConfigKey(key).operand == key)
        }
        for key in [
            "", "user", "user.", ".name", "-a.name", "user.na me", "user.1name", "a\nb.c", "us er.name", "a.b\nc.d",
        ] {
            #expect(throws: ToolboxError.self, "\(key)") { try ConfigKey(key) }
        }
    }

    @Test("Who commits is stored as given, or refused")
    func identities() throws {
        #expect(throws: Never.self) { try GitIdentity(name: "Ünï O'Neill", email: "a@b.c", nameField: "author") }
        for name in ["", " . ", "a<b", "a>", "a\nb", "<>", String(repeating: "x", count: GitLimit.identityBytes + 1)] {
            #expect(throws: ToolboxError.self, "\(name)") {
                try GitIdentity(name: name, email: "a@b", nameField: "author")
            }
            #expect(throws: ToolboxError.self, "\(name)") {
                try GitIdentity(name: "a", email: name, nameField: "author")
            }
        }
    }

    @Test(
        "URLs that are taken",
        arguments: [
            ("https://host/a/b.git", "https://host/a/b.git", "https://host"),
            ("HTTPS://Host:8443/a", "https://Host:8443/a", "https://host:8443"),
            ("http://[::1]:80/a", "http://[::1]:80/a", "http://[::1]:80"),
            ("https://alice@host/a", "https://alice@host/a", "https://host"),
            ("https://alice:s%40c@host/a", "https://host/a", "https://host"),
            ("https://a:b@evil@host/a", "https://host/a", "https://host"),
            ("ssh://git@host:22/a", "ssh://git@host:22/a", nil), ("git://host/a", "git://host/a", nil),
            ("file:///srv/a b", "file:///srv/a b", nil), ("/srv/a:b", "/srv/a:b", nil),
            ("git@host:a/b.git", "git@host:a/b.git", nil), ("host:a", "host:a", nil),
            ("u@[::1]:a", "u@[::1]:a", nil),
        ] as [(String, String, String?)]
    )
    func goodURLs(given: String, operand: String, origin: String?) throws {
        let url = try RemoteURL(given)
        #expect(url.operand == operand)
        #expect(url.origin == origin)
        #expect(
            url.credentials
                == (given.contains("s%40c") ? try GitCredentials(username: "alice", password: "s@c") : url.credentials)
        )
    }

    @Test(
        "URLs that are refused, without a password in the message",
        arguments: [
            "", "ext::sh -c 'touch /tmp/x'", "EXT::x", "http::https://host/a", "-u", "--upload-pack=x", "ftp://host/a",
            "ssh://-oProxyCommand=x/a", "ssh://-l@host/a", "-oProxyCommand=x:a", "git@-host:a", "host:-a", "a/b",
            "../a", "name",
            "https:///a", "https://ho st/a", "https://host\n/a", "file://host/a", "https://\\host/a",
            "ssh://u:secret@host/a",
            "https://u:secret\u{7f}@host/a", "ext://sh", "fd::17",
        ]
    )
    func badURLs(given: String) throws {
        let error = #expect(throws: ToolboxError.self) { try RemoteURL(given) }
        #expect(error?.code == "BAD_REQUEST" && error?.message.contains("secret") == false)
    }

    @Test("What a request says stands behind '--' or an option's '='; paths go by standard input")
    func commands() throws {
        var command = GitCommand("clone", "--quiet")
        command.add("--branch", try BranchName("b", field: "branch"))
        command.add("--depth", 3)
        command.addOperands(try RemoteURL("https://u:secret@host/a"), GitPath(operand: "-odd"))
        try GitCredentials(username: "u", password: "secret").authorize(&command, for: ["https://host"])
        #expect(
            command.arguments.suffix(7) == [
                "clone", "--quiet", "--branch=b", "--depth=3", "--", "https://host/a", "-odd",
            ]
        )
        #expect(!command.arguments.contains { $0.contains("secret") })
        #expect(command.variables["MARTLET_GIT_PASSWORD"] == "secret")
        var addition = GitCommand("add")
        addition.add(paths: ["-f", "a b"])
        #expect(String(buffer: addition.input) == "-f\0a b\0")
        #expect(addition.arguments == ["--literal-pathspecs", "add", "--pathspec-from-file=-", "--pathspec-file-nul"])
    }

    @Test("Credentials take one line; a token alone is a password")
    func credentials() throws {
        #expect(try GitCredentials.given(username: nil, password: "") == nil)
        #expect(
            try GitCredentials.given(username: nil, password: "t") == GitCredentials(username: "git", password: "t")
        )
        for text in ["a\nb", "a\r\nb", "a\0b", String(repeating: "x", count: GitLimit.credentialBytes + 1)] {
            #expect(throws: ToolboxError.self) { try GitCredentials.given(username: text, password: "x") }
            #expect(throws: ToolboxError.self) { try GitCredentials.given(username: "x", password: text) }
        }
    }

    @Test("Git's environment asks nothing and points nowhere else")
    func environment() {
        let result = gitEnvironment(
            [
                "GIT_DIR": "/x", "GIT_TRACE": "1", "GIT_TRACE_CURL": "1", "LC_ALL": "de_DE", "PATH": "/bin",
                "SSH_ASKPASS": "x",
            ],
            ceiling: "/home"
        )
        #expect(result["GIT_DIR"] == nil && result["GIT_TRACE_CURL"] == nil && result["SSH_ASKPASS"] == nil)
        #expect(result["LC_ALL"] == "C" && result["PATH"] == "/bin" && result["GIT_CEILING_DIRECTORIES"] == "/home")
        #expect(result["GIT_TERMINAL_PROMPT"] == "0" && result["GIT_ASKPASS"] == "")
        #expect(gitEnvironment(["GIT_ALLOW_PROTOCOL": "https"])["GIT_ALLOW_PROTOCOL"] == "https")
    }

    // MARK: - What git says

    @Test(
        "Messages of git's and what they mean",
        arguments: [
            ("fatal: Authentication failed for 'https://h/'", .authenticationFailed),
            ("fatal: could not read Username for 'https://h': terminal prompts disabled", .authenticationFailed),
            ("fatal: unable to access 'https://h/': The requested URL returned error: 403", .authenticationFailed),
            (
                "g@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                .authenticationFailed
            ),
            ("fatal: repository 'https://h/' not found", .repositoryNotFound),
            ("fatal: not a git repository (or any of the parent directories): .git", .repositoryNotFound),
            (
                "fatal: 'x' does not appear to be a git repository\nfatal: Could not read from remote",
                .repositoryNotFound
            ),
            ("fatal: Remote branch nope not found in upstream origin", .branchNotFound),
            ("fatal: couldn't find remote ref nope", .branchNotFound),
            ("error: branch 'x' not found.", .branchNotFound),
            ("error: src refspec refs/heads/x does not match any\nerror: failed to push", .branchNotFound),
            ("fatal: A branch named 'x' already exists.", .branchExists),
            ("error: Your local changes to the following files would be overwritten by merge:\n\tf", .dirtyWorktree),
            ("error: Entry 'f' not uptodate. Cannot merge.\nfatal: Could not reset", .dirtyWorktree),
            ("error: you need to resolve your current index first", .mergeConflict),
            ("error: Pulling is not possible because you have unmerged files.", .mergeConflict),
            ("fatal: unable to access 'https://h/': Could not resolve host: h", .transportFailed),
            ("error: RPC failed; curl 18 transfer closed\nfatal: early EOF", .transportFailed),
            ("ssh: connect to host h port 22: x\nfatal: Could not read from remote repository.", .transportFailed),
            ("fatal: destination path 'x' already exists and is not an empty directory.", .destinationExists),
            ("fatal: Unable to create '/r/.git/index.lock': File exists.", .locked),
            ("error: could not lock config file /etc/gitconfig: Permission denied", .accessDenied),
            ("fatal: detected dubious ownership in repository at '/r'", .accessDenied),
            ("fatal: transport 'ext' not allowed", .schemeNotAllowed), ("fatal: something new", .other), ("", .other),
            ("remote: fatal: Authentication failed for 'x'\nfatal: unable to access 'x'", .transportFailed),
            ("\tfatal: repository 'x' not found\nerror: Entry 'f' not uptodate. Cannot merge.", .dirtyWorktree),
        ] as [(String, GitProblem)]
    )
    func meanings(message: String, problem: GitProblem) {
        #expect(classifyFailure(output: "", errors: message) == problem)
    }

    @Test("What a push came to, conflicts and 'nothing to commit' stand in the output")
    func meaningsOfOutput() {
        let push = "To x\n!\trefs/heads/m:refs/heads/m\t"
        #expect(classifyFailure(output: push + "[rejected] (fetch first)\nDone", errors: "error: x") == .pushRejected)
        #expect(classifyFailure(output: push + "[remote rejected] (hook declined)", errors: "") == .remoteRejected)
        #expect(classifyFailure(output: "CONFLICT (content): Merge conflict in f", errors: "") == .mergeConflict)
        #expect(
            classifyFailure(output: "On branch m\nnothing to commit, working tree clean", errors: "")
                == .nothingToCommit
        )
    }

    @Test("Every problem has a code, and the message quotes git without hints and passwords")
    func messages() {
        #expect(GitProblem.allCases.allSatisfy { !$0.code.isEmpty && !$0.explanation.isEmpty })
        let errors = "hint: x\nfatal: unable to access 'https://u:secret@h/': Could not resolve host: h\n"
        let error = gitFailure("git push", GitResult(exitCode: 128, errors: errors))
        #expect(error.code == "GIT_TRANSPORT_FAILED")
        #expect(error.message.contains("https://***@h/") && !error.message.contains("secret"))
        #expect(!error.message.contains("hint"))
        let long = gitFailure("git x", GitResult(exitCode: 1, errors: String(repeating: "é", count: 100_000)))
        #expect(long.message.utf8.count < GitLimit.quotedBytes + 200)
        #expect(
            withoutPasswords("a https://h/x@y:z 'ssh://g@h' http://a:b@c")
                == "a https://h/x@y:z 'ssh://g@h' http://***@c"
        )
    }

    @Test("Of a long output both ends are kept")
    func outputEnds() {
        var ends = OutputEnds(limit: 10)
        for number in 0..<100 { ends.append(ByteBuffer(string: "\(number % 10)")) }
        #expect(ends.text == "0123456789\n[80 bytes left out]\n0123456789")
        var short = OutputEnds(limit: 10)
        short.append(ByteBuffer(string: "0123456789abc"))
        #expect(short.text == "0123456789abc")
    }

    // MARK: - Status

    @Test("A status with every kind of record")
    func status() throws {
        let hash = String(repeating: "0", count: 40)
        let records = [
            "# branch.oid \(hash)", "# branch.head feature/x", "# branch.upstream origin/feature/x",
            "# branch.ab +2 -13",
            "# stash 4", "1 .M N... 100644 100644 100644 \(hash) \(hash) a b", "1 T. N... 1 1 1 \(hash) \(hash) link",
            "1 MD N... 100644 100644 000000 \(hash) \(hash) é\n", "2 R. N... 1 1 1 \(hash) \(hash) R100 new name",
            "old name",
            "2 .C N... 1 1 1 \(hash) \(hash) C75 copy", "from", "u UD N... 1 1 0 1 \(hash) \(hash) \(hash) both",
            "? un tracked/",
            "! ignored",
        ]
        let report = try parseStatus(bytes(records))
        #expect(report.branch == "feature/x" && report.upstream == "origin/feature/x")
        #expect(report.distance == .init(ahead: 2, behind: 13))
        #expect(
            report.files == [
                ChangedFile(name: "a b", staging: .unmodified, worktree: .modified),
                ChangedFile(name: "link", staging: .modified, worktree: .unmodified),
                ChangedFile(name: "é\n", staging: .modified, worktree: .deleted),
                ChangedFile(name: "new name", extra: "old name", staging: .renamed, worktree: .unmodified),
                ChangedFile(name: "copy", extra: "from", staging: .unmodified, worktree: .copied),
                ChangedFile(name: "both", extra: "deleted by them", staging: .unmerged, worktree: .unmerged),
                ChangedFile(name: "un tracked/", staging: .untracked, worktree: .untracked),
            ]
        )
        #expect(try parseStatus(bytes(["# branch.oid (initial)", "# branch.head (detached)"])).branch == nil)
        #expect(try parseStatus(bytes([])) == GitStatusReport())
    }

    @Test(
        "Records that no git writes are errors, never a crash",
        arguments: [
            "1 M", "1 .M N... 1 1 1 a b", "2 R. N... 1 1 1 a b R1 x", "u XX N... 1 1 1 1 a b c x", "x", "?", "? ",
            "1 ZZ N... 1 1 1 a b x", "# branch.ab +x -1", "# branch.ab +1",
        ]
    )
    func unreadableStatus(record: String) {
        #expect(throws: GitOutputError.self) { try parseStatus(bytes([record])) }
    }

    @Test("Random statuses come out as they went in; random bytes and damaged statuses never trap")
    func randomStatuses() throws {
        var generator = SeededGenerator()
        print("SEED=\(generator.seed)")
        for _ in 0..<500 {
            var records: [String] = []
            var files: [ChangedFile] = []
            for _ in 0..<Int.random(in: 0...8, using: &generator) {
                let (record, file) = randomFile(&generator)
                records += record
                files.append(file)
            }
            #expect(try parseStatus(bytes(records)).files == files)
            var damaged = Array(bytes(records))
            for _ in 0..<5 where !damaged.isEmpty {
                damaged[Int.random(in: 0..<damaged.count, using: &generator)] = [0, 32, 10, 63, 255].randomElement(
                    using: &generator
                )!
            }
            _ = try? parseStatus(ByteBuffer(bytes: damaged).readableBytesView)
            let noise = (0..<64).map { _ in UInt8.random(in: 0...255, using: &generator) }
            _ = try? parseStatus(ByteBuffer(bytes: noise).readableBytesView)
        }
    }

    private func randomFile(_ generator: inout SeededGenerator) -> ([String], ChangedFile) {
        func name() -> String {
            String(
                (0..<Int.random(in: 1...6, using: &generator)).map { _ in
                    "a é\n\"\t#?1".randomElement(using: &generator)!
                }
            )
        }
        let (name, former) = ("x" + name(), "y" + name())
        let letters: [(Character, FileChange)] = [(".", .unmodified), ("M", .modified), ("A", .added), ("D", .deleted)]
        let (staged, unstaged) = (letters.randomElement(using: &generator)!, letters.randomElement(using: &generator)!)
        switch Int.random(in: 0...3, using: &generator) {
        case 0:
            let record = "1 \(staged.0)\(unstaged.0) N... 1 2 3 aa bb \(name)"
            return ([record], ChangedFile(name: name, staging: staged.1, worktree: unstaged.1))
        case 1:
            let record = "2 R\(unstaged.0) N... 1 2 3 aa bb R99 \(name)"
            return ([record, former], ChangedFile(name: name, extra: former, staging: .renamed, worktree: unstaged.1))
        case 2:
            let record = "u AA N... 1 2 3 4 aa bb cc \(name)"
            return ([record], ChangedFile(name: name, extra: "both added", staging: .unmerged, worktree: .unmerged))
        default:
            return (["? \(name)"], ChangedFile(name: name, staging: .untracked, worktree: .untracked))
        }
    }

    private func bytes(_ records: [String]) -> ByteBufferView {
        ByteBuffer(string: records.map { $0 + "\0" }.joined()).readableBytesView
    }
}
