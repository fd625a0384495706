import CLibSSH
import CLinux
import Glibc
import SSHServing

/// A session: requests that prepare it, and then a shell, a command or file transfer.
final class SessionChannel: SSHChannel {
    private enum Content {
        case nothing
        case program(RunningProgram)
        case files(SFTPChannel)
    }

    let hooks: ChannelHooks
    /// What its program's news bears.
    let number: Int
    private let raw: ssh_channel
    private let session: SSHSession
    private let context: SessionContext
    private let mailbox: ConnectionMailbox
    private var variables: [String: String]
    private var variableBytes = 0
    private var terminal: (name: String, size: TerminalSize)?
    private var content = Content.nothing

    /// - Parameter variables: what the connection tells all its programs.
    init(
        _ raw: ssh_channel,
        _ session: SSHSession,
        number: Int,
        context: SessionContext,
        mailbox: ConnectionMailbox,
        variables: [String: String]
    ) {
        self.raw = raw
        self.session = session
        self.number = number
        self.context = context
        self.mailbox = mailbox
        self.variables = variables
        hooks = ChannelHooks(raw)
    }

    // MARK: - Requests

    /// Does what a request asks for.
    /// - Returns: false if it is refused.
    func handle(_ request: SSHMessage, agentPath: () -> String?) -> Bool {
        switch ssh_channel_requests_e(UInt32(bitPattern: request.subtype)) {
        case SSH_CHANNEL_REQUEST_PTY: return prepareTerminal(request)
        case SSH_CHANNEL_REQUEST_ENV: return setVariable(request)
        case SSH_CHANNEL_REQUEST_WINDOW_CHANGE: return resize(request)
        case SSH_CHANNEL_REQUEST_SHELL: return start(nil, agentPath)
        case SSH_CHANNEL_REQUEST_EXEC: return start(text(ssh_message_channel_request_command(request.raw)), agentPath)
        case SSH_CHANNEL_REQUEST_SUBSYSTEM:
            return startSubsystem(text(ssh_message_channel_request_subsystem(request.raw)))
        default: return false
        }
    }

    private func prepareTerminal(_ request: SSHMessage) -> Bool {
        guard case .nothing = content, terminal == nil else { return false }
        terminal = terminalRequest(request)
        return true
    }

    private func terminalRequest(_ request: SSHMessage) -> (name: String, size: TerminalSize) {
        var name: UnsafePointer<CChar>?
        var (columns, rows): (CInt, CInt) = (0, 0)
        martlet_ssh_terminal(request.raw, &name, &columns, &rows)
        let size = TerminalSize(columns: UInt16(clamping: columns), rows: UInt16(clamping: rows))
        return (text(name), size)
    }

    private func resize(_ request: SSHMessage) -> Bool {
        guard let name = terminal?.name else { return false }
        let size = terminalRequest(request).size
        terminal = (name, size)
        if case .program(let program) = content { program.resize(size) }
        return true
    }

    private func setVariable(_ request: SSHMessage) -> Bool {
        let name = text(ssh_message_channel_request_env_name(request.raw))
        let value = text(ssh_message_channel_request_env_value(request.raw))
        guard case .nothing = content, EnvironmentStore.isName(name), !name.hasPrefix("MARTLET_"),
            variables.count < SSHLimit.variables,
            variableBytes + name.utf8.count + value.utf8.count <= SSHLimit.variableBytes
        else { return false }
        variableBytes += name.utf8.count + value.utf8.count
        variables[name] = value
        return true
    }

    private func start(_ command: String?, _ agentPath: () -> String?) -> Bool {
        guard case .nothing = content else { return false }
        if hooks.offersAgent { variables["SSH_AUTH_SOCK"] = agentPath() }
        variables["TERM"] = terminal?.name
        let program = RunningProgram(raw, session, terminal: terminal?.size) { [context, variables] path, size in
            let all = context.environment.current.merging(variables) { $1 }
            return context.recordings.begin(.ssh, of: path, size: size, variables: all)
        }
        guard let program else { return false }
        variables["SSH_TTY"] = program.terminalName
        context.run(program.specification(command, variables), as: number, tell: mailbox)
        content = .program(program)
        return true
    }

    private func startSubsystem(_ name: String) -> Bool {
        guard case .nothing = content, name == "sftp" else { return false }
        content = .files(
            SFTPChannel(raw, session, SFTPServer(directory: context.workingDirectory.path, home: context.home))
        )
        return true
    }

    // MARK: - News

    func launched(_ tree: ProcessTree) {
        guard case .program(let program) = content else { return tree.kill() }
        program.tree = tree
    }

    func notLaunched(_ reason: String) {
        guard case .program(let program) = content else { return }
        program.complain("martlet: \(reason)\r\n")
    }

    func exited(_ exit: ProgramExit) {
        guard case .program(let program) = content else { return }
        program.exited(exit)
    }

    // MARK: - Turns

    func addInterests(to list: inout [pollfd]) {
        switch content {
        case .nothing: break
        case .program(let program): program.addInterests(to: &list)
        case .files(let files): files.addInterests(to: &list)
        }
    }

    var deadline: ContinuousClock.Instant? {
        guard case .program(let program) = content else { return nil }
        return program.deadline
    }

    func serve() -> ChannelTurn {
        switch content {
        case .nothing: return hooks.isClosed ? .finished : .waiting
        case .program(let program):
            guard !hooks.isClosed else {
                program.hangUp()
                return .finished
            }
            for signal in hooks.takeSignals() { program.signal(signal) }
            return program.serve()
        case .files(let files): return hooks.isClosed ? .finished : files.serve()
        }
    }

    func abandon() {
        if case .program(let program) = content { program.hangUp() }
    }
}
