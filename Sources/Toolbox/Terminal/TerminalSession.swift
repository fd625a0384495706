package import FoundationEssentials
import Glibc
import HTTPTypes
package import NIOCore
import Synchronization

/// A program on a pseudo-terminal, with any number of clients that come and go.
///
///     idle ──start──▶ starting ──▶ running ──▶ ended
///       └──kill──────────┴───────────────────────▲
///
/// One task reads its output into a bounded history; each client reads that at a pace of its own. Before a byte is forgotten
/// that a client has not seen, the program waits, but not for ever: see `TerminalLimit.patience`.
package final class TerminalSession: Sendable {
    enum Phase {
        case idle
        case starting
        case running(ProcessTree)
        case ended(TerminalEnd)
    }

    /// A client's place in the output.
    struct Reader {
        var position: Int
        /// Resumed when there is more, at the end, and when it goes.
        var waiter: CheckedContinuation<Void, Never>?
        /// The program waits for it no more until it has caught up.
        var isLeftBehind = false
    }

    struct State {
        var phase = Phase.idle
        var size: TerminalSize
        var isKilled = false
        var history = OutputHistory(limit: TerminalLimit.historyBytes)
        var readers: [Int: Reader] = [:]
        var nextReader = 0
        /// The task that reads the output, while it waits for clients.
        var producer: CheckedContinuation<Void, Never>?
        /// Pieces of output so far, to see whether any came.
        var pieceCount = 0
        var pendingInputBytes = 0
        /// Where its output goes too, if it is recorded.
        var recording: Recording?
        /// What was typed before the program started.
        var earlyInput = ByteBuffer()
    }

    package let id: String
    package let createdAt = Date.now
    package let lazyStart: Bool
    /// Its `streams` are set at the start.
    package let program: ProgramSpecification
    /// The variables that were asked for, not all that the program has.
    package let ownVariables: [String: String]
    /// Fulfilled when it ended and all its output was taken over. Never fails.
    package let ended: EventLoopFuture<TerminalEnd>

    let state: Mutex<State>
    private let endPromise: EventLoopPromise<TerminalEnd>
    private let processes: ProcessTable
    private let recordings: RecordingTable?
    private let loop: any EventLoop

    package init(
        id: String,
        program: ProgramSpecification,
        ownVariables: [String: String] = [:],
        size: TerminalSize,
        lazyStart: Bool = false,
        processes: ProcessTable,
        recordings: RecordingTable? = nil,
        on loop: any EventLoop
    ) {
        self.id = id
        self.program = program
        self.ownVariables = ownVariables
        self.lazyStart = lazyStart
        self.processes = processes
        self.recordings = recordings
        self.loop = loop
        state = Mutex(State(size: size))
        endPromise = loop.makePromise()
        ended = endPromise.futureResult
    }

    deinit {
        // One that was never started, nor killed; nobody can hear it, but a promise must be kept.
        endPromise.succeed(.failed("it was never started"))
    }

    package var size: TerminalSize { state.withLock { $0.size } }

    /// Whether its program runs.
    package var isActive: Bool {
        state.withLock { state in
            switch state.phase {
            case .starting, .running: true
            case .idle, .ended: false
            }
        }
    }

    /// Starts the program, unless that was done before.
    package func start() {
        let isFirst = state.withLock { state in
            guard case .idle = state.phase else { return false }
            state.phase = .starting
            return true
        }
        // A task of its own, because a terminal outlives the request and the client that began it. It ends with the program,
        // and `ProcessTable.stop` ends that.
        if isFirst { Task { await run() } }
    }

    /// Begins to follow the output, from what is kept of it on; starts the program if nobody did.
    /// - Throws: 410 if it ended, 429 if it has as many clients as it may have.
    package func attach() throws -> TerminalAttachment {
        let key = try state.withLock { state in
            if case .ended = state.phase { throw Self.gone(id) }
            guard state.readers.count < TerminalLimit.clients else {
                throw ToolboxError(
                    .tooManyRequests,
                    "TOO_MANY_REQUESTS",
                    "terminal '\(id)' has \(TerminalLimit.clients) clients, the limit; disconnect one first"
                )
            }
            state.nextReader += 1
            state.readers[state.nextReader] = Reader(position: state.history.replayStart)
            return state.nextReader
        }
        start()
        return TerminalAttachment(session: self, key: key)
    }

    /// Types. Waits until the terminal took it, or the task is cancelled. What exceeds `TerminalLimit.inputBytes` is dropped.
    /// - Throws: `IOError` or `ChannelError` if the terminal ended meanwhile, `CancellationError`.
    package func write(_ bytes: ByteBuffer) async throws {
        let count = bytes.readableBytes
        guard let input = state.withLock({ $0.admitInput(bytes) }) else { return }
        let written = input.startWriting(bytes)
        written.whenComplete { [self] _ in state.withLock { $0.pendingInputBytes -= count } }
        let done = loop.makePromise(of: Void.self)
        written.cascade(to: done)
        try await withTaskCancellationHandler {
            try await done.futureResult.get()
        } onCancel: {
            done.fail(CancellationError())
        }
    }

    /// Sets the size; the programs get SIGWINCH.
    /// - Throws: 410 if it ended.
    package func resize(_ size: TerminalSize) async throws {
        let tree = try state.withLock { state -> ProcessTree? in
            switch state.phase {
            case .idle, .starting:
                state.size = size
                return nil
            case .running(let tree): return tree
            case .ended: throw Self.gone(id)
            }
        }
        guard let tree else { return }
        do {
            try await tree.input?.resize(size)
            let recording = state.withLock { state in
                state.size = size
                return state.recording
            }
            recording?.resize(size)
        } catch is IOError {
            throw Self.gone(id)
        }
    }

    /// Kills the program with all its descendants, and waits until the terminal has ended.
    package func kill() async {
        let (tree, isOver) = state.withLock { state -> (ProcessTree?, Bool) in
            state.isKilled = true
            switch state.phase {
            case .idle:
                state.phase = .starting
                return (nil, true)
            case .starting, .ended: return (nil, false)
            case .running(let tree): return (tree, false)
            }
        }
        tree?.kill()
        if isOver { finish(.exited(128 + Int(SIGKILL))) }
        _ = try? await ended.get()
    }

    /// 410 for a terminal that has ended.
    static func gone(_ id: String) -> ToolboxError {
        ToolboxError(.gone, "GONE", "terminal '\(id)' has ended; create another one")
    }

    // MARK: The program

    private func run() async {
        do {
            var program = program
            let size = size
            program.streams = .terminal(size)
            let tree = try await processes.launch(program, on: loop)
            try await adopt(tree, startedWith: size)
            record()
            watchForQuiet(after: tree)
            await takeOutput(of: tree)
            let exit = try await tree.exit.get()
            _ = try await tree.started.get()
            finish(exit == .unknown ? .failed("the keeper of the terminal's processes was killed") : .exited(exit.code))
        } catch let failure as LaunchFailure {
            finish(.failed(failure.reason))
        } catch let error as ToolboxError {
            finish(.failed(error.message))
        } catch {
            finish(.failed("\(error)"))
        }
    }

    private func adopt(_ tree: ProcessTree, startedWith size: TerminalSize) async throws {
        // What is typed meanwhile goes behind what was typed before, so nothing is typed directly until nothing is left.
        while let early = state.withLock({ $0.begin(tree) }) { _ = tree.input?.startWriting(early) }
        let (isKilled, wanted) = state.withLock { ($0.isKilled, $0.size) }
        if isKilled { tree.kill() }
        // It was resized while it started. If it is gone by now, no size matters.
        if wanted != size { try? await tree.input?.resize(wanted) }
    }

    private func record() {
        let size = size
        let recording = recordings?.begin(.pty, of: id, size: size, variables: program.environment)
        let now = state.withLock { state in
            state.recording = recording
            return state.size
        }
        if now != size { recording?.resize(now) }
    }

    private func takeOutput(of tree: ProcessTree) async {
        await tree.output.readToEnd { piece in
            await waitForReaders(adding: piece.readableBytes)
            append(piece)
        }
    }

    /// A process that outlives the shell may hold the terminal open, silently, since the kernel has hung it up.
    private func watchForQuiet(after tree: ProcessTree) {
        let terminal = tree.output.channel
        @Sendable func check(seen count: Int) {
            guard terminal.isActive else { return }
            let (now, isWaiting) = state.withLock { ($0.pieceCount, $0.producer != nil) }
            // On a busy machine there may be output that nobody had the time to read.
            let isQuiet = now == count && !isWaiting && tree.input?.isOutputWaiting != true
            if isQuiet { return terminal.close(promise: nil) }
            loop.scheduleTask(in: TimeAmount(TerminalLimit.quiet)) { check(seen: now) }
        }
        tree.exit.whenComplete { _ in check(seen: -1) }
    }

    private func append(_ piece: ByteBuffer) {
        let (waiters, recording) = state.withLock { state in
            state.history.append(piece)
            state.pieceCount += 1
            return (state.takeWaiters(), state.recording)
        }
        recording?.output(piece)
        for waiter in waiters { waiter.resume() }
    }

    private func finish(_ end: TerminalEnd) {
        let (waiters, recording) = state.withLock { state in
            state.phase = .ended(end)
            return (state.takeWaiters(), state.recording)
        }
        recording?.end(end.inWords)
        for waiter in waiters { waiter.resume() }
        endPromise.succeed(end)
    }

    // MARK: Waiting for slow clients

    /// Waits until no client misses anything if `count` bytes are added, or they had their time.
    private func waitForReaders(adding count: Int) async {
        let begin = ContinuousClock.now
        while true {
            let (slow, others) = state.withLock { $0.slowReaders(adding: count) }
            guard !slow.isEmpty else { return }
            let patience = others == 0 ? TerminalLimit.patience : TerminalLimit.patienceAmongOthers
            let left = patience - (ContinuousClock.now - begin)
            guard left > .zero else {
                return state.withLock { state in
                    for key in slow { state.readers[key]?.isLeftBehind = true }
                }
            }
            await waitForProgress(adding: count, atMost: left)
        }
    }

    private func waitForProgress(adding count: Int, atMost limit: Duration) async {
        var alarm: Scheduled<Void>?
        await withCheckedContinuation { continuation in
            let isNeeded = state.withLock { state in
                guard !state.slowReaders(adding: count).slow.isEmpty else { return false }
                state.producer = continuation
                return true
            }
            guard isNeeded else { return continuation.resume() }
            // Only now: an alarm that went off before would find nobody to wake.
            alarm = loop.scheduleTask(in: TimeAmount(limit)) { [self] in wakeProducer() }
        }
        alarm?.cancel()
    }

    func wakeProducer() {
        let producer = state.withLock { state in
            defer { state.producer = nil }
            return state.producer
        }
        producer?.resume()
    }
}

extension TerminalSession.State {
    /// Counts input and answers where to write it; nil if it was kept for later or dropped.
    mutating func admitInput(_ bytes: ByteBuffer) -> ProgramInput? {
        let count = bytes.readableBytes
        switch phase {
        case .idle, .starting:
            if earlyInput.readableBytes + count <= TerminalLimit.inputBytes { earlyInput.writeImmutableBuffer(bytes) }
            return nil
        case .running(let tree):
            guard pendingInputBytes == 0 || pendingInputBytes + count <= TerminalLimit.inputBytes else { return nil }
            pendingInputBytes += count
            return tree.input
        case .ended: return nil
        }
    }

    /// The program runs, unless something was typed before, which is answered and must be written first.
    mutating func begin(_ tree: ProcessTree) -> ByteBuffer? {
        guard earlyInput.readableBytes == 0 else {
            defer { earlyInput = ByteBuffer() }
            return earlyInput
        }
        phase = .running(tree)
        return nil
    }

    mutating func takeWaiters() -> [CheckedContinuation<Void, Never>] {
        var waiters: [CheckedContinuation<Void, Never>] = []
        for key in readers.keys {
            if let waiter = readers[key]?.waiter { waiters.append(waiter) }
            readers[key]?.waiter = nil
        }
        return waiters
    }

    /// Readers that would miss output, and how many others there are that follow.
    func slowReaders(adding count: Int) -> (slow: [Int], others: Int) {
        let start = history.start(afterAdding: count)
        let following = readers.filter { !$0.value.isLeftBehind }
        let slow = following.filter { $0.value.position < start }.map(\.key)
        return (slow, following.count - slow.count)
    }
}
