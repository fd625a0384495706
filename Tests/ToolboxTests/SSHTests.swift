import CLibSSH
import FoundationEssentials
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("SSH", .serialized, .timeLimit(.minutes(10)))
    struct SSHTests {
        // MARK: - Logging in

        @Test("Keys of each type log in, others and no key at all do not; what is no key is refused with its place")
        func keys() async throws {
            try await SSHClient.run { client async throws in
                for type in ["rsa", "ecdsa"] {
                    let key = try await client.makeKey(type, type: type)
                    let options = ["-i", client.path(type)]
                    #expect(try await client.ssh("true", as: "stranger", options: options).code == 255)
                    try await client.authorize([key])
                    #expect(try await client.ssh("true", as: "stranger", options: options).code == 0)
                }
                let password = ["-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes"]
                #expect(
                    try await client.ssh("true", options: password).errors.contains("Permission denied (publickey)")
                )
                for body in [
                    #"{"keys":[]}"#, #"{"keys":["ssh-ed25519 AAAA"]}"#, #"{"keys":["nonsense"]}"#, #"{}"#,
                    #"{"keys":["ssh-dss AAAA"]}"#, #"{"keys":["ssh-rsa AAAA"],"expiresInSeconds":0}"#,
                ] {
                    #expect(
                        try await client.daemon.client.call(.POST, "/ssh/authorized-keys", body: body).status == 400
                    )
                }
            }
        }

        @Test(
            "The host key is the same after a restart, whenever the token comes; nothing listens before the first key"
        )
        func hostKey() async throws {
            var shown: Set<String> = []
            for token in [TestClient.token, nil] {
                try await TestDaemon.run(token: token) { daemon async throws in
                    let directory = try makeTemporaryDirectory()
                    defer { try? FileManager.default.removeItem(atPath: directory) }
                    if token == nil {
                        #expect(try await daemon.client.call(.POST, "/ssh/authorized-keys").status == 503)
                        #expect(try await daemon.client.call(.POST, "/init").status == 200)
                    }
                    let before = try await daemon.client.call(.GET, "/ssh/authorized-keys").text
                    #expect(before.contains(#""keys":[]"#) && !before.contains("port"))
                    let client = SSHClient(daemon: daemon, directory: directory, port: 0)
                    shown.insert(try #require(try await client.authorize([client.makeKey("key")]).hostKey))
                }
            }
            #expect(shown.count == 1 && shown.first?.hasPrefix("ssh-ed25519 ") == true)
        }

        @Test("Revoking a key ends its connections and their programs")
        func revocation() async throws {
            try await SSHClient.run { client async throws in
                let mark = "3\(UInt32.random(in: 100_000...999_999))"
                async let session = client.ssh("sleep \(mark)")
                #expect(try await eventually(.seconds(60)) { processes(holding: "sleep \(mark)").count > 1 })
                #expect(try await client.daemon.client.call(.DELETE, "/ssh/authorized-keys").status == 200)
                let ended = try await session
                #expect(ended.code == 255)
                #expect(try await client.ssh("true").code == 255)
                #expect(try await eventually(.seconds(60)) { processes(holding: "sleep \(mark)").isEmpty })
            }
        }

        @Test("A client that offers one wrong key after the other is disconnected")
        func attempts() async throws {
            try await SSHClient.run { client async throws in
                var options: [String] = []
                for number in 0...SSHLimit.attempts {
                    _ = try await client.makeKey("wrong\(number)")
                    options += ["-i", client.path("wrong\(number)")]
                }
                let refused = try await client.ssh("true", as: "stranger", options: options)
                #expect(refused.code == 255 && !refused.errors.contains("Permission denied (publickey)"))
            }
        }

        // MARK: - Commands

        @Test("Both outputs apart, the code, standard input to its end, variables, the working directory")
        func commands() async throws {
            try await SSHClient.run { client async throws in
                let done = try await client.ssh("echo out; echo err >&2; exit 7")
                #expect(done.code == 7 && done.text == "out\n" && done.errors == "err\n")
                #expect(try await client.ssh("cat; echo end", input: ByteBuffer(string: "in ")).text == "in end\n")
                #expect(try await client.ssh("pwd").text == "\(client.daemon.directory)\n")
                let options = ["-o", "SetEnv=GREETING=hello"]
                #expect(try await client.ssh("echo $GREETING", options: options).text == "hello\n")
                #expect(try await client.ssh("echo ${SSH_CONNECTION##* }").text == "\(client.port)\n")
                #expect(try await client.ssh("exec 2>&1; kill -SEGV $$").code == 255)
                #expect(try await client.ssh("no-such-program").code == 127)
            }
        }

        @Test("20 MB each way at once arrive as they were sent")
        func largeTransfer() async throws {
            try await SSHClient.run { client async throws in
                let bytes = randomBytes(20_000_000)
                let back = try await client.ssh("cat", input: bytes)
                #expect(back.code == 0 && back.output == bytes)
            }
        }

        @Test("A program that does not read or a client that does not read stops neither the other channels nor memory")
        func backPressure() async throws {
            try await SSHClient.run { client async throws in
                try await client.forwarding([]) {
                    let control = ["-S", client.path("control")]
                    let slow = try await client.start(
                        ["ssh", "-F", client.path("config")] + control + ["box", "yes"],
                        .apart
                    )
                    let growth = try await peakMemoryGrowth {
                        let bytes = ByteBuffer(repeating: 1, count: 8 << 20)
                        async let unread = client.ssh("sleep 3; wc -c", options: control, input: bytes)
                        #expect(try await client.ssh("echo quick", options: control).text == "quick\n")
                        let counted = try await unread
                        #expect(counted.text.trimmingPrefix { $0 == " " } == "\(8 << 20)\n")
                    }
                    #expect(growth < 32 << 10, "grew by \(growth) KiB")
                    slow.kill()
                    try? await slow.output.executeThenClose { _ in }
                    try? await slow.errors?.executeThenClose { _ in }
                    try await slow.gone.get()
                }
            }
        }

        @Test("20 connections at once")
        func manyConnections() async throws {
            try await SSHClient.run { client async throws in
                try await withThrowingTaskGroup(of: Bool.self) { tasks in
                    for number in 0..<20 {
                        tasks.addTask { try await client.ssh("sleep 0.2; echo \(number)").text == "\(number)\n" }
                    }
                    for try await right in tasks { #expect(right) }
                }
            }
        }

        @Test("Many sessions on one connection, each with its own end")
        func sharedConnection() async throws {
            try await SSHClient.run { client async throws in
                try await client.forwarding([]) {
                    try await withThrowingTaskGroup(of: Bool.self) { tasks in
                        for number in 1...9 {
                            tasks.addTask {
                                let options = ["-S", client.path("control")]
                                let done = try await client.ssh(
                                    "sleep 0.1; echo \(number); exit \(number)",
                                    options: options
                                )
                                return done.text == "\(number)\n" && done.code == number
                            }
                        }
                        for try await right in tasks { #expect(right) }
                    }
                    #expect(client.connectionThreads == 1)
                }
            }
        }

        // MARK: - Terminals and ends

        @Test("A terminal has the client's size and type, follows its changes, and hands Ctrl+C on")
        func terminal() async throws {
            try await SSHClient.run { client async throws in
                let command =
                    "trap \"stty size; exit 9\" INT; trap \"echo changed\" WINCH; stty size; echo $TERM; "
                    + "test -t 2 && test $(tty) = $SSH_TTY && echo ready; while :; do sleep 0.1; done"
                let tree = try await client.start(
                    ["ssh", "-F", client.path("config"), "-tt", "box", command],
                    .terminal(TerminalSize(columns: 91, rows: 17))
                )
                let input = try #require(tree.input)
                let shown = await read(tree) { text in
                    if text.hasSuffix("ready\r\n") { try? await input.resize(TerminalSize(columns: 100, rows: 40)) }
                    if text.hasSuffix("changed\r\n") { try? await input.write(ByteBuffer(bytes: [3])) }
                }
                let type = EnvironmentStore.ofThisProcess()["TERM"] ?? "dumb"
                #expect(shown.hasPrefix("17 91\r\n\(type)\r\nready\r\n"), "\(shown)")
                #expect(shown.contains("40 100\r\n"), "\(shown)")
                #expect(try await tree.exit.get() == .exited(9))
                try await tree.gone.get()
            }
        }

        private func read(_ tree: ProcessTree, _ onText: (String) async -> Void) async -> String {
            var shown = ""
            // A terminal ends with EIO.
            try? await tree.output.executeThenClose { inbound in
                for try await piece in inbound {
                    shown += String(buffer: piece)
                    await onText(shown)
                }
            }
            return shown
        }

        @Test("A shell without a command reads its commands, and ends with the last one's code")
        func shell() async throws {
            try await SSHClient.run { client async throws in
                let done = try await client.ssh(input: ByteBuffer(string: "echo $((1+1))\nexit 3\n"))
                #expect(done.text == "2\n" && done.code == 3)
            }
        }

        @Test("When the client is gone its programs die, those too that left the session or ignore the hang-up")
        func clientGone() async throws {
            try await SSHClient.run { client async throws in
                for options in [[], ["-tt"]] {
                    let mark = "4\(UInt32.random(in: 100_000...999_999))"
                    let command = "trap '' HUP; setsid sleep \(mark) & sleep \(mark) & sleep \(mark)"
                    let tree = try await client.start(
                        ["ssh", "-F", client.path("config")] + options + ["box", command],
                        .merged
                    )
                    #expect(
                        try await eventually(.seconds(60)) {
                            processes(holding: "sleep \(mark)").count { $0.hasPrefix("sleep") } == 3
                        }
                    )
                    tree.kill()
                    try? await tree.output.executeThenClose { _ in }
                    #expect(try await eventually(.seconds(60)) { processes(holding: "sleep \(mark)").isEmpty })
                    try await tree.gone.get()
                }
            }
        }

        @Test("A background process that lets go of the output outlives its session, and not the daemon")
        func background() async throws {
            let mark = "5\(UInt32.random(in: 100_000...999_999))"
            try await TestDaemon.run { daemon async throws in
                let directory = try makeTemporaryDirectory()
                defer { try? FileManager.default.removeItem(atPath: directory) }
                let client = try await SSHClient.connected(to: daemon, directory)
                let done = try await client.ssh("nohup sleep \(mark) >/dev/null 2>&1 </dev/null & echo started")
                #expect(done.text == "started\n")
                #expect(try await eventually(.seconds(60)) { client.connectionThreads == 0 })
                #expect(processes(holding: "sleep \(mark)").count == 1)
            }
            #expect(processes(holding: mark) == [])
        }

        @Test(
            "Signals reach the program, its death by one is told, and there is a limit on the channels of a connection"
        )
        func libraryClient() async throws {
            try await SSHClient.run { client async throws in
                let (told, died, opened) = try await onBlockingThread {
                    let library = try LibrarySession(port: client.port, key: client.path("key"))
                    let trapping = try library.run(
                        "trap 'echo got; exit 5' TERM; echo on; while :; do sleep 0.05; done",
                        "TERM"
                    )
                    let dying = try library.run("echo on; exec sleep 100", "KILL")
                    return (trapping, dying, library.openUntilRefused())
                }
                #expect(told.output == "on\ngot\n" && told.code == 5)
                #expect(died.output == "on\n" && died.code == -1)
                #expect(opened == SSHLimit.channels)
            }
        }

        // MARK: - Files

        @Test("sftp: put, get, resume, rename over nothing and over a file, links, modes, times, listing, errors")
        func fileTransfer() async throws {
            try await SSHClient.run { client async throws in
                let bytes = randomBytes(10_000_000)
                try Data(bytes.readableBytesView).write(to: URL(filePath: client.path("local")))
                let half = Data(bytes.readableBytesView.prefix(5_000_000))
                try half.write(to: URL(filePath: client.path("half")))
                let batch = """
                    put -p local one
                    get one back
                    mkdir d
                    cd d
                    put local two
                    rename two three
                    ln -s three soft
                    ln three hard
                    chmod 640 three
                    ls -la
                    pwd
                    put half resumed
                    reput local resumed
                    cd ..
                    df
                    -rm nothing
                    -rmdir d
                    """
                let done = try await client.sftp(batch)
                #expect(done.code == 0, "\(done.errors) \(done.text)")
                #expect(done.text.contains("Remote working directory: \(client.daemon.directory)/d"))
                #expect(done.text.contains("-rw-r-----    2 ") && done.text.contains("lrwxrwxrwx"))
                #expect(try Data(contentsOf: URL(filePath: client.path("back"))) == Data(bytes.readableBytesView))
                let names = try await client.ssh(
                    "ls d; readlink d/soft; stat -c %a d/three; cmp one d/three && cmp one d/resumed"
                )
                #expect(names.text == "hard\nresumed\nsoft\nthree\nthree\n640\n" && names.code == 0)
                #expect(try await client.sftp("get nothing").code != 0)
                #expect(try await client.sftp("rename one d/three").code == 0)
            }
        }

        @Test("scp by either protocol, and rsync, keep trees as they are")
        func copies() async throws {
            try await SSHClient.run { client async throws in
                let made = try await client.run([
                    "sh", "-c",
                    "mkdir -p t/u; echo a > t/a; head -c 3000000 /dev/urandom > t/u/b; chmod 750 t/u; ln -s a t/l",
                ])
                #expect(made.code == 0)
                let options = ["-F", client.path("config"), "-r", "-p"]
                for (name, protocolOption) in [("new", "-s"), ("old", "-O")] {
                    #expect(try await client.run(["scp", protocolOption] + options + ["t", "box:\(name)"]).code == 0)
                    #expect(
                        try await client.run(["scp", protocolOption] + options + ["box:\(name)", "\(name)-back"]).code
                            == 0
                    )
                    #expect(try await client.run(["diff", "-r", "t", "\(name)-back"]).text == "")
                }
                let shell = "ssh -F \(client.path("config"))"
                #expect(try await client.run(["rsync", "-a", "-e", shell, "t/", "box:r/"]).code == 0)
                #expect(try await client.run(["rsync", "-a", "-e", shell, "box:r/", "r-back/"]).code == 0)
                #expect(try await client.run(["diff", "-r", "--no-dereference", "t", "r-back"]).text == "")
            }
        }

        // MARK: - Forwarding

        @Test("Local, remote and dynamic forwarding, by name and number; what cannot be reached is said to be")
        func forwarding() async throws {
            try await SSHClient.run { client async throws in
                let target = client.daemon.client.port
                let (local, back, proxy, dead) = (try freePort(), try freePort(), try freePort(), try freePort())
                let options = [
                    "-L", "\(local):localhost:\(target)", "-R", "\(back):127.0.0.1:\(target)", "-D", "\(proxy)",
                    "-L", "\(dead):127.0.0.1:1",
                ]
                try await client.forwarding(options) {
                    for port in [local, back] {
                        try await withThrowingTaskGroup(of: Int.self) { tasks in
                            for _ in 0..<16 {
                                tasks.addTask { try await TestClient(port: port).call(.GET, "/version").status }
                            }
                            for try await status in tasks { #expect(status == 200) }
                        }
                    }
                    let url = "http://localhost:\(target)/version"
                    let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
                    let socks = ["--socks5-hostname", "127.0.0.1:\(proxy)"]
                    #expect(try await client.run(curl + socks + [url]).text == "401")
                    #expect(try await client.run(curl + socks + ["http://no-such-host.invalid/"]).code != 0)
                    #expect(try await client.run(curl + ["http://127.0.0.1:\(dead)/"]).code != 0)
                    let cancel = ["-S", client.path("control"), "-O", "cancel", "-R", options[3]]
                    #expect(try await client.ssh(options: cancel).code == 0)
                    // The client does not wait for the server to do it.
                    #expect(
                        try await eventually(.seconds(60)) {
                            try await client.run(curl + ["http://127.0.0.1:\(back)/version"]).code == 7
                        }
                    )
                }
                let refused = try await client.ssh(options: ["-o", "LogLevel=INFO", "-W", "127.0.0.1:1"])
                #expect(refused.code == 255 && refused.errors.contains("open failed"))
            }
        }

        @Test("A forwarded connection to a unix socket is ended in one direction and goes on in the other")
        func halfClose() async throws {
            try await SSHClient.run { client async throws in
                let script = """
                    import socket, sys
                    s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
                    print("on", flush=True)
                    c, _ = s.accept(); got = b"".join(iter(lambda: c.recv(65536), b""))
                    c.sendall(b"got %d" % len(got)); c.close()
                    """
                let far = client.path("far")
                async let server = client.run(["python3", "-c", script, far])
                #expect(try await eventually(.seconds(60)) { FileManager.default.fileExists(atPath: far) })
                try await client.forwarding(["-L", "\(client.path("near")):\(far)"]) {
                    let connect = """
                        import socket, sys
                        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
                        s.sendall(bytes(3000000)); s.shutdown(socket.SHUT_WR); print(s.recv(100))
                        """
                    let reply = try await client.run(["python3", "-c", connect, client.path("near")])
                    #expect(reply.text == "b'got 3000000'\n")
                }
                let answered = try await server
                #expect(answered.code == 0)
            }
        }

        @Test("Programs use the client's agent, through a socket that goes away with the connection")
        func agent() async throws {
            try await SSHClient.run { client async throws in
                let script =
                    "ssh-add -q key; ssh -F config -A -o IdentityAgent=SSH_AUTH_SOCK box "
                    + "'ssh-add -L; echo $SSH_AUTH_SOCK; stat -c %a ${SSH_AUTH_SOCK%/*}'; kill $SSH_AGENT_PID"
                let done = try await client.run(["ssh-agent", "sh", "-c", script])
                let lines = done.text.split(separator: "\n").map(String.init)
                try #require(lines.count == 3, "\(done)")
                #expect(lines[0].hasPrefix("ssh-ed25519 ") && lines[2] == "700")
                #expect(try await eventually(.seconds(60)) { !FileManager.default.fileExists(atPath: lines[1]) })
            }
        }
    }
}

/// libssh's client, for what OpenSSH's does not do.
private final class LibrarySession {
    private let session: ssh_session

    init(port: Int, key path: String) throws {
        session = try #require(ssh_new())
        var (number, no) = (CInt(port), CInt(0))
        ssh_options_set(session, SSH_OPTIONS_HOST, "127.0.0.1")
        ssh_options_set(session, SSH_OPTIONS_PORT, &number)
        ssh_options_set(session, SSH_OPTIONS_USER, "somebody")
        ssh_options_set(session, SSH_OPTIONS_PROCESS_CONFIG, &no)
        try #require(ssh_connect(session) == SSH_OK)
        var key: ssh_key?
        try #require(ssh_pki_import_privkey_file(path, nil, nil, nil, &key) == SSH_OK)
        defer { ssh_key_free(key) }
        try #require(ssh_userauth_publickey(session, nil, key) == SSH_AUTH_SUCCESS.rawValue)
    }

    deinit {
        ssh_disconnect(session)
        ssh_free(session)
    }

    /// Runs a command and sends it a signal once it has said something.
    func run(_ command: String, _ signal: String) throws -> (output: String, code: CInt) {
        let channel = try #require(ssh_channel_new(session))
        defer { ssh_channel_free(channel) }
        try #require(
            ssh_channel_open_session(channel) == SSH_OK && ssh_channel_request_exec(channel, command) == SSH_OK
        )
        var bytes = [UInt8](repeating: 0, count: 100)
        var output = ""
        while true {
            let count = ssh_channel_read(channel, &bytes, UInt32(bytes.count), 0)
            guard count > 0 else { break }
            if output.isEmpty { ssh_channel_request_send_signal(channel, signal) }
            output += String(decoding: bytes.prefix(Int(count)), as: UTF8.self)
        }
        return (output, ssh_channel_get_exit_status(channel))
    }

    /// How many sessions there can be at a time.
    func openUntilRefused() -> Int {
        var count = 0
        while count < 1000, let channel = ssh_channel_new(session), ssh_channel_open_session(channel) == SSH_OK {
            count += 1
        }
        return count
    }
}

@Suite("SFTP packets")
struct SFTPPacketTests {
    @Test("No bytes from outside bring it down, whatever they say of their lengths")
    func anyBytes() throws {
        var random = SeededGenerator()
        let directory = try makeTemporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let server = SFTPServer(directory: directory, home: directory)
        #expect(server.handle([1, 0, 0, 0, 3]))
        for _ in 0..<20_000 {
            var packet: [UInt8] = [UInt8.random(in: 0...21, using: &random), 0, 0, 0, 7]
            if UInt8.random(in: 0...5, using: &random) == 0 { packet[0] = 200 }
            for _ in 0..<Int.random(in: 0...24, using: &random) {
                let name: [UInt8] = [0, 0, 0, 1, UInt8(ascii: "a")]
                packet += Bool.random(using: &random) ? name : [.random(in: 0...255, using: &random)]
            }
            #expect(server.handle(packet[...]), "seed \(random.seed)")
            server.answers.take(server.answers.count)
        }
    }

    @Test("What is no packet of the protocol ends it")
    func refusals() {
        #expect(!SFTPServer(directory: "/", home: "/").handle([3, 0, 0, 0, 1]))
        #expect(!SFTPServer(directory: "/", home: "/").handle([1]))
    }

    @Test("A listing's line takes times that are too far away to count with")
    func farTimes() {
        var status = stat()
        for seconds in [Int.min, -1, 0, Int.max] {
            status.st_mtim.tv_sec = seconds
            #expect(
                String(decoding: listingLine(Array("x".utf8), status, Accounts(passwd: "", group: "")), as: UTF8.self)
                    .hasSuffix(" x")
            )
        }
    }
}

private func randomBytes(_ count: Int) -> ByteBuffer {
    var random = SeededGenerator()
    var bytes = ByteBuffer()
    bytes.reserveCapacity(count + 8)
    while bytes.readableBytes < count { bytes.writeInteger(random.next()) }
    bytes.moveWriterIndex(to: count)
    return bytes
}
