import Glibc
import Logging
package import NIOCore
import Synchronization

/// Limits of language servers, so that they cannot starve the daemon nor the rest of the sandbox.
package enum LanguageServerLimit {
    /// Servers at a time, of all languages and projects.
    package static let servers = 8
    /// Documents that one server holds open; the one that was used longest ago is closed for the next.
    package static let openDocuments = 64
    /// Largest document, in bytes.
    package static let documentBytes = 4 << 20
    /// Requests that wait for one server at a time.
    package static let waitingRequests = 64
    /// Bytes that wait to be read by one server.
    package static let queuedBytes = 4 * documentBytes
    /// Newest bytes of a server's standard error that are kept for the log.
    package static let complaintBytes = 4 << 10
    /// Characters of them in an error's message.
    package static let complaintExcerpt = 1000
    /// Longest pause after crashes.
    package static let pause = Duration.seconds(30)
    /// A server that lived this long is not one that crashes at every start.
    package static let soundLife = Duration.seconds(60)
    /// Address space of a server that runs in Python, in KiB.
    package static let addressSpaceKilobytes = 4 << 20
    /// Heap of a server that runs in Node, in MiB. Node reserves far more address space than it uses.
    package static let heapMegabytes = 1024
    /// Source files of a project whose changes are told to its server.
    package static let projectFiles = 5000
    /// Entries looked at to find them.
    package static let projectEntries = 50_000
}

/// How long language servers are waited for.
package struct LanguageServerPatience: Sendable {
    /// Until a new server is ready.
    package var start = Duration.seconds(60)
    /// For an answer.
    package var answer = Duration.seconds(60)
    /// Until a server reads what is sent to it; then it is taken for hung and killed.
    package var reading = Duration.seconds(60)
    /// Until one that was asked to end is killed.
    package var end = Duration.seconds(2)
    /// After its start, or news of files, a server may not have read them yet.
    package var settling = Duration.seconds(5)

    package init() {}
}

/// The server ended, or is ending, and answers nothing any more.
package struct ServerLost: Error, Sendable, Equatable {
    package var reason: String
}

/// The server did not answer in time.
package struct ServerLate: Error, Sendable, Equatable {
    package var method: String
    package var limit: Duration
}

/// More is being asked of the server than it may have waiting.
package struct ServerBusy: Error, Sendable, Equatable {}

/// One running server: its process, the requests that wait for its answers, and the end of both.
package final class ServerConnection: Sendable {
    private struct State {
        var waiting: [Int: EventLoopPromise<ByteBuffer>] = [:]
        var lastID = 0
        var queuedBytes = 0
        /// Set when nothing can be asked any more.
        var end: ServerLost?
    }

    package let format: any MessageFormat
    package let patience: LanguageServerPatience
    private let tree: ProcessTree
    private let input: ProgramInput
    private let eventLoop: any EventLoop
    private let complaints = Mutex(OutputHistory(limit: LanguageServerLimit.complaintBytes))
    private let endPromise: EventLoopPromise<Void>
    private let state = Mutex(State())

    /// Fulfilled when the server ended and everything of it is closed. Never fails.
    package var ended: EventLoopFuture<Void> { endPromise.futureResult }

    private init(
        tree: ProcessTree,
        input: ProgramInput,
        format: any MessageFormat,
        patience: LanguageServerPatience,
        on loop: any EventLoop
    ) {
        (self.tree, self.input, self.format, self.patience, eventLoop) = (tree, input, format, patience, loop)
        endPromise = loop.makePromise()
    }

    /// Starts a server. Its program must have its streams apart.
    /// - Throws: `ServerLost` if it cannot be started, or 503 once the daemon is stopping.
    package static func open(
        _ program: ProgramSpecification,
        _ format: any MessageFormat,
        patience: LanguageServerPatience,
        processes: ProcessTable,
        on loop: any EventLoop
    ) async throws -> ServerConnection {
        let tree: ProcessTree
        do {
            tree = try await processes.launch(program, on: loop)
        } catch let failure as LaunchFailure {
            throw ServerLost(reason: failure.reason)
        }
        guard let input = tree.input else { preconditionFailure("a server's streams are apart") }
        let server = ServerConnection(tree: tree, input: input, format: format, patience: patience, on: loop)
        // What the server started may hold its output open after it, and answers nothing.
        tree.exit.whenComplete { _ in tree.kill() }
        // Ends with the server's output, which ends with its process, which everything that gives a server up kills.
        Task { await server.serve() }
        return server
    }

    /// Asks, and waits for the answer; nil for null. Cancelling the task tells the server that nobody waits any more.
    /// - Throws: `ServerRefusal`, `ServerLost`, `ServerLate`, `ServerBusy`, `MessageError` or `CancellationError`.
    package func request<Value: Decodable & Sendable>(
        _ method: String,
        _ parameters: (some Encodable & Sendable)?,
        within limit: Duration? = nil,
        as type: Value.Type
    ) async throws -> Value? {
        let (id, answer) = try enroll()
        let limit = limit ?? patience.answer
        let alarm = eventLoop.scheduleTask(in: TimeAmount(limit)) { [self] in
            abandon(id, ServerLate(method: method, limit: limit))
        }
        defer { alarm.cancel() }
        let message = try await withTaskCancellationHandler {
            do {
                try await send(try format.request(id, method, parameters)).get()
            } catch {
                settle(id, .failure(error))
            }
            return try await answer.get()
        } onCancel: {
            abandon(id, CancellationError())
        }
        return try format.result(of: message, as: type)
    }

    /// Tells, without waiting for more than room in the queue.
    /// - Throws: `ServerLost` or `ServerBusy`.
    package func notify(_ method: String, _ parameters: (some Encodable)?) throws {
        _ = try send(try format.notification(method, parameters))
    }

    /// Waits for the server's end; kills it after a while.
    package func close(after grace: Duration) async {
        let alarm = eventLoop.scheduleTask(in: TimeAmount(grace)) { [tree] in tree.kill() }
        try? await ended.get()
        alarm.cancel()
    }

    /// Why it ended; nil as long as it lives.
    package var end: ServerLost? { state.withLock { $0.end } }

    /// Messages go out in the order of the calls.
    private func send(_ message: ByteBuffer) throws -> EventLoopFuture<Void> {
        let count = message.readableBytes
        let written = try state.withLock { state in
            if let end = state.end { throw end }
            guard state.queuedBytes + count <= LanguageServerLimit.queuedBytes else { throw ServerBusy() }
            state.queuedBytes += count
            return input.send(message)
        }
        let alarm = eventLoop.scheduleTask(in: TimeAmount(patience.reading)) { [tree] in tree.kill() }
        written.whenComplete { [self] result in
            alarm.cancel()
            state.withLock { $0.queuedBytes -= count }
            // One that closed its input answers nothing any more, even if it lives.
            if case .failure = result { tree.kill() }
        }
        return written.flatMapErrorThrowing { _ in throw ServerLost(reason: "it does not read its input any more") }
    }

    private func enroll() throws -> (Int, EventLoopFuture<ByteBuffer>) {
        try state.withLock { state in
            if let end = state.end { throw end }
            guard state.waiting.count < LanguageServerLimit.waitingRequests else { throw ServerBusy() }
            let promise = eventLoop.makePromise(of: ByteBuffer.self)
            state.lastID += 1
            state.waiting[state.lastID] = promise
            return (state.lastID, promise.futureResult)
        }
    }

    /// Whoever takes the promise out fulfils it, so that it happens once. False if it has happened.
    @discardableResult
    private func settle(_ id: Int, _ result: Result<ByteBuffer, any Error>) -> Bool {
        guard let promise = state.withLock({ $0.waiting.removeValue(forKey: id) }) else { return false }
        promise.completeWith(result)
        return true
    }

    private func abandon(_ id: Int, _ reason: any Error) {
        guard settle(id, .failure(reason)), let message = format.cancellation(of: id) else { return }
        _ = try? send(message)
    }

    private func serve() async {
        async let allComplaints: Void = collectComplaints()
        let fault = await readMessages()
        tree.kill()
        let exit = (try? await tree.exit.get()) ?? .unknown
        let failure = await tree.startFailure
        await allComplaints
        finish(failure?.reason ?? fault ?? describe(exit))
        input.close()
        endPromise.succeed()
    }

    /// Answers what was wrong with the messages; nil if they just ended.
    private func readMessages() async -> String? {
        do {
            try await tree.output.executeThenClose { inbound in
                var parser = MessageParser()
                for try await piece in inbound {
                    for message in try parser.take(piece) { try accept(message) }
                }
            }
            return nil
        } catch let error as MessageError {
            return "it broke the protocol: \(error.reason)"
        } catch is ServerBusy {
            return "it does not read the replies to what it asks"
        } catch {
            return nil  // closed under us after a kill
        }
    }

    private func accept(_ message: ByteBuffer) throws {
        switch try format.read(message) {
        case .answer(let id, let refusal):
            // An answer that nobody waits for any more is dropped.
            settle(id, refusal.map { .failure($0) } ?? .success(message))
        case .question(let reply): _ = try send(reply)
        case .remark: break
        }
    }

    private func collectComplaints() async {
        await tree.errors?.readToEnd { piece in complaints.withLock { $0.append(piece) } }
    }

    private func describe(_ exit: ProgramExit) -> String {
        switch exit {
        case .exited(let code): "it exited with code \(code)"
        case .signalled(let number): "it was ended by signal \(number)"
        case .unknown: "it was ended from outside"
        }
    }

    private func finish(_ reason: String) {
        let text = String(
            buffer: complaints.withLock { $0.read(from: $0.start, atMost: LanguageServerLimit.complaintBytes) }
        )
        let excerpt = String(text.suffix(LanguageServerLimit.complaintExcerpt))
        let end = ServerLost(reason: excerpt.isEmpty ? reason : "\(reason); it wrote: \(excerpt)")
        let waiting = state.withLock { state in
            state.end = end
            defer { state.waiting = [:] }
            return state.waiting.values.map { $0 }
        }
        for promise in waiting { promise.fail(end) }
    }
}
