import CLibSSH
import CLinux
import Glibc
import NIOCore
import SSHServing

/// The program of a session: its streams on this side, and its end.
final class RunningProgram {
    /// Known once it runs.
    var tree: ProcessTree?
    /// The path of its terminal.
    private(set) var terminalName: String?

    private let raw: ssh_channel
    private let session: SSHSession
    private var inbound: InboundStream
    private var outbound: [OutboundStream]
    private let terminal: OpenFile?
    /// Of its terminal.
    private let recording: Recording?
    /// The program's ends, until it is started.
    private var ends: (input: OpenFile, output: OpenFile, errors: OpenFile)?
    private var exit: ProgramExit?
    private var isDone = false
    /// When a terminal that something still has open is no longer waited for.
    private(set) var deadline: ContinuousClock.Instant?
    private var isOverdue = false

    /// - Parameter record: called with the terminal's path and size, if there is a terminal; answers where its output goes too.
    /// - Returns: nil if there can be no terminal or pipes.
    init?(
        _ raw: ssh_channel,
        _ session: SSHSession,
        terminal size: TerminalSize?,
        record: (String, TerminalSize) -> Recording?
    ) {
        self.raw = raw
        self.session = session
        if let size {
            guard let (master, slave) = Self.openTerminal(size) else { return nil }
            terminal = master
            terminalName = Self.name(of: master)
            recording = record(terminalName ?? "", size)
            inbound = InboundStream(master)
            outbound = [OutboundStream(master, recording: recording)]
            ends = (slave, slave, slave)
        } else {
            guard let input = try? pipeForProgram(), let output = try? pipeForProgram(),
                let errors = try? pipeForProgram()
            else { return nil }
            for file in [input.write, output.read, errors.read] { setNonBlocking(file.descriptor) }
            terminal = nil
            recording = nil
            inbound = InboundStream(input.write)
            outbound = [OutboundStream(output.read), OutboundStream(errors.read, isErrors: true)]
            ends = (input.read, output.write, errors.write)
        }
    }

    deinit { recording?.end("the client is gone") }

    private static func openTerminal(_ size: TerminalSize) -> (OpenFile, OpenFile)? {
        var (master, slave): (CInt, CInt) = (-1, -1)
        guard martlet_terminal_open(size.columns, size.rows, &master, &slave) == 0 else { return nil }
        setNonBlocking(master)
        return (OpenFile(owning: master), OpenFile(owning: slave))
    }

    private static func name(of terminal: OpenFile) -> String? {
        var name = [CChar](repeating: 0, count: 64)
        guard martlet_terminal_name(terminal.descriptor, &name, name.count) == 0 else { return nil }
        return text(name)
    }

    /// What to start; once only, for it hands over the program's ends, so that only the program holds them.
    func specification(_ command: String?, _ variables: [String: String]) -> SessionProgram {
        guard let (input, output, errors) = ends else { preconditionFailure("a program is started once") }
        ends = nil
        return SessionProgram(
            command: command,
            variables: variables,
            input: input,
            output: output,
            errors: errors,
            hasTerminal: terminal != nil
        )
    }

    func resize(_ size: TerminalSize) {
        guard let terminal else { return }
        _ = martlet_terminal_resize(terminal.descriptor, size.columns, size.rows)
        recording?.resize(size)
    }

    /// Sends a signal to the leader's group, by its name in SSH; unknown ones are not sent.
    func signal(_ name: String) {
        if let number = signalNumber(name) { tree?.signal(number) }
    }

    /// It was not started: why goes to the client, as a shell would say it.
    func complain(_ reason: String) {
        _ = reason.utf8.withContiguousStorageIfAvailable { text in
            session.send(UnsafeRawBufferPointer(text), on: raw, asErrors: terminal == nil)
        }
        exited(.exited(127))
    }

    func exited(_ how: ProgramExit) {
        guard exit == nil else { return }
        exit = how
        if terminal != nil { deadline = .now + SSHLimit.terminalDrain }
    }

    func addInterests(to list: inout [pollfd]) {
        if let interest = inbound.interest { list.append(interest) }
        list.append(contentsOf: outbound.compactMap { $0.interest(raw, session) })
    }

    func serve() -> ChannelTurn {
        if let deadline, deadline <= .now { (self.deadline, isOverdue) = (nil, true) }
        var isBusy = inbound.move(from: raw, session)
        for index in outbound.indices where outbound[index].move(to: raw, session) { isBusy = true }
        guard let exit, outbound.allSatisfy(\.isFinished) || hasDrained else { return isBusy ? .busy : .waiting }
        report(exit)
        isDone = true
        return .finished
    }

    /// The time is over, and it is not the client that the rest waits for.
    private var hasDrained: Bool {
        isOverdue && outbound.allSatisfy { $0.interest(raw, session) != nil }
    }

    private func report(_ exit: ProgramExit) {
        recording?.end(TerminalEnd.exited(exit.code).inWords)
        ssh_channel_send_eof(raw)
        switch exit {
        case .exited(let code):
            ssh_channel_request_send_exit_status(raw, code)
        case .signalled(let number):
            ssh_channel_request_send_exit_signal(raw, signalName(number), 0, "", "")
        case .unknown:
            ssh_channel_request_send_exit_signal(raw, "KILL", 0, "killed from outside", "")
        }
    }

    /// The client is gone before the program was done: it is told so, and then all of it is killed.
    func hangUp() {
        guard !isDone, let tree else { return }
        isDone = true
        tree.signal(SIGHUP)
        let killing = tree.exit.eventLoop.scheduleTask(in: TimeAmount(SSHLimit.hangUpGrace)) { tree.kill() }
        tree.gone.whenComplete { _ in killing.cancel() }
    }
}

/// The signals that SSH has names for.
private let standardSignals: [String: CInt] = [
    "ABRT": SIGABRT, "ALRM": SIGALRM, "FPE": SIGFPE, "HUP": SIGHUP, "ILL": SIGILL, "INT": SIGINT, "KILL": SIGKILL,
    "PIPE": SIGPIPE, "QUIT": SIGQUIT, "SEGV": SIGSEGV, "TERM": SIGTERM, "USR1": SIGUSR1, "USR2": SIGUSR2,
]

private func signalName(_ number: CInt) -> String {
    standardSignals.first { $0.value == number }?.key ?? "\(number)@martlet"
}

private func signalNumber(_ name: String) -> CInt? {
    let others = ["BUS": SIGBUS, "CONT": SIGCONT, "STOP": SIGSTOP, "TSTP": SIGTSTP, "WINCH": SIGWINCH]
    return standardSignals[name] ?? others[name]
}
