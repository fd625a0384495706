import HTTPTypes
import NIOCore
import Synchronization

/// A command of a session.
///
///     queued ──attach──▶ running ──finish──▶ finished
///        └────────────────finish (session ended)──▲
final class SessionCommand: Sendable {
    /// What is asked for.
    struct Request: Sendable {
        var text: String
        /// The answer does not wait for the end, and input may be sent.
        var isAsync = false
        /// Input appears in the log.
        var echoesInput = true
    }

    fileprivate enum Phase {
        case queued(script: String, input: [ByteBuffer])
        case running(CommandStreams)
        case finished(code: Int, CommandStreams?)
    }

    fileprivate struct State {
        var phase: Phase
        /// Bytes of input that the command has not taken yet.
        var unreadInput = 0
    }

    let id: String
    /// The shell's name for it.
    let number: Int
    /// The beginning of its text.
    let text: String
    let isAsync: Bool
    let log: OutputLog
    /// Its exit code, once it has ended and its output is in the log. Never fails.
    var outcome: EventLoopFuture<Int> { promise.futureResult }
    private let echoesInput: Bool
    private let promise: EventLoopPromise<Int>
    private let state: Mutex<State>

    init(_ request: Request, id: String, number: Int, log: OutputLog, on loop: any EventLoop) {
        self.id = id
        self.number = number
        text = Self.shortened(request.text)
        isAsync = request.isAsync
        echoesInput = request.echoesInput
        self.log = log
        promise = loop.makePromise()
        state = Mutex(State(phase: .queued(script: request.text, input: [])))
    }

    /// Nil until it has ended.
    var exitCode: Int? {
        state.withLock { state in
            guard case .finished(let code, _) = state.phase else { return nil }
            return code
        }
    }

    /// Its whole text; nil once it runs.
    var script: String? {
        state.withLock { state in
            guard case .queued(let script, _) = state.phase else { return nil }
            return script
        }
    }

    /// It runs now. False if it was finished meanwhile; then the streams are closed.
    func attach(_ streams: CommandStreams) -> Bool {
        let waiting = state.withLock { state -> [ByteBuffer]? in
            guard case .queued(_, let input) = state.phase else { return nil }
            state.phase = .running(streams)
            return input
        }
        guard let waiting else {
            streams.close()
            return false
        }
        for bytes in waiting { write(bytes, to: streams) }
        return true
    }

    /// The shell has opened its streams.
    func begin() {
        state.withLock { $0.streams }?.begin()
    }

    /// Fulfilled when its output until now is in the log.
    func drain(on loop: any EventLoop) -> EventLoopFuture<Void> {
        state.withLock { $0.streams }?.drain() ?? loop.makeSucceededVoidFuture()
    }

    /// It has ended. Only the first call counts.
    func finish(_ code: Int) {
        let (isFirst, streams) = state.withLock { state -> (Bool, CommandStreams?) in
            switch state.phase {
            case .queued: state.phase = .finished(code: code, nil)
            case .running(let streams): state.phase = .finished(code: code, streams)
            case .finished: return (false, nil)
            }
            return (true, state.streams)
        }
        guard isFirst else { return }
        streams?.end()
        log.finish()
        promise.succeed(code)
        // What it left running may write on; after that, the streams are only memory.
        streams?.gone.whenComplete { [weak self] _ in
            self?.state.withLock { $0.phase = .finished(code: code, nil) }
        }
    }

    /// Gives the command's standard input a line.
    /// - Throws: 410 once it has ended, 400 if it has no input, 429 if it does not read what was sent before.
    func send(_ data: String) async throws {
        let bytes = ByteBuffer(string: data.hasSuffix("\n") ? data : data + "\n")
        let streams = try state.withLock { try $0.accept(bytes, isAsync: isAsync) }
        if echoesInput { await log.store(bytes, of: .standardOutput) }
        if let streams { write(bytes, to: streams) }
    }

    /// Forgets its output, and cuts off what it left running. Blocks.
    func discard() {
        state.withLock { $0.streams }?.close()
        log.discard(forGood: true)
    }

    private func write(_ bytes: ByteBuffer, to streams: CommandStreams) {
        streams.input?.writeAndFlush(bytes).whenComplete { [self] _ in
            state.withLock { $0.unreadInput -= bytes.readableBytes }
        }
    }

    private static func shortened(_ text: String) -> String {
        guard text.utf8.count > SessionLimit.keptTextBytes else { return text }
        let kept = String(decoding: text.utf8.prefix(SessionLimit.keptTextBytes), as: UTF8.self)
        return "\(kept)\n[martlet: cut at \(SessionLimit.keptTextBytes) of \(text.utf8.count) bytes]"
    }
}

extension SessionCommand.State {
    var streams: CommandStreams? {
        switch phase {
        case .queued: nil
        case .running(let streams): streams
        case .finished(_, let streams): streams
        }
    }

    /// Counts input, and keeps it if the command does not run yet.
    mutating func accept(_ bytes: ByteBuffer, isAsync: Bool) throws -> CommandStreams? {
        if case .finished(let code, _) = phase {
            throw ToolboxError(
                .gone,
                "COMMAND_ALREADY_COMPLETED",
                "the command has ended already, with exit code \(code)"
            )
        }
        guard isAsync else {
            throw ToolboxError.badRequest(
                "the command was started without runAsync: its standard input is at its end; start it with runAsync to send input"
            )
        }
        guard unreadInput + bytes.readableBytes <= SessionLimit.unreadInputBytes else {
            throw ToolboxError(
                .tooManyRequests,
                "TOO_MANY_REQUESTS",
                "the command has not read \(unreadInput) bytes of earlier input, the limit is \(SessionLimit.unreadInputBytes); send more when it reads"
            )
        }
        unreadInput += bytes.readableBytes
        switch phase {
        case .queued(let script, let input): phase = .queued(script: script, input: input + [bytes])
        case .running(let streams): return streams
        case .finished: break
        }
        return nil
    }
}
