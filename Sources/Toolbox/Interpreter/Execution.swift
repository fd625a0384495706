import NIOCore
import WebSockets

/// One execution, from the queue to its close frame.
struct Execution: Sendable {
    let request: ExecutionRequest
    let context: InterpreterContext
    let socket: WebSocket
    let loop: any EventLoop

    /// How a worker finished with the code.
    private enum Outcome {
        case done(PythonFailure?, interrupted: Bool)
        /// The process ended before; `started` if the code had begun.
        case died(started: Bool)
    }

    /// Waits for its turn, runs the code, and answers how the WebSocket is to be closed. A cancelled task means that the client
    /// is gone: then the code is interrupted.
    func run() async -> WebSocketClose {
        do {
            let ticket = try await context.turns.enter()
            defer { context.turns.leave(ticket) }
            return try await runInTurn()
        } catch TurnRefusal.full {
            let reason =
                "\(InterpreterLimit.waiting) executions wait in context '\(context.id)', the limit; try again later"
            return WebSocketClose(CloseCode.tryAgainLater, reason)
        } catch TurnRefusal.closed {
            return deleted
        } catch let failure as InterpreterFailure {
            // The reason of a close frame is cut, an error is not.
            var client = ExecutionClient(socket)
            await client.error(PythonFailure(name: "InterpreterFailed", value: failure.message, traceback: ""))
            return WebSocketClose(WebSocketClose.internalError, failure.message)
        } catch let error as ToolboxError {
            return WebSocketClose(WebSocketClose.internalError, error.message)
        } catch {
            return WebSocketClose(WebSocketClose.goingAway, "the client is gone")
        }
    }

    private var deleted: WebSocketClose {
        WebSocketClose(CloseCode.policy, "interpreter context '\(context.id)' was deleted")
    }

    private func runInTurn() async throws -> WebSocketClose {
        var client = ExecutionClient(socket)
        // A process that died since the last execution is only noticed now: then the code runs in a new one, once.
        var attempts = 0
        while true {
            attempts += 1
            let (worker, loss) = try await context.worker(on: loop)
            if let loss {
                await tell(loss.leftovers, to: &client)
                await client.note(
                    "what earlier executions of this context made is lost, since its Python process \(loss.reason)"
                )
                if !client.isGone { context.lossWasTold() }
            }
            if let close = await run(in: worker, for: &client, isLast: attempts == 2) { return close }
        }
    }

    /// Nil if the process died before the code began, unless it is the last attempt.
    private func run(in worker: InterpreterWorker, for client: inout ExecutionClient, isLast: Bool) async
        -> WebSocketClose?
    {
        let stop = ExecutionStop(worker, on: loop) { [socket, request] in
            // A task of its own, since the one that executes waits for the client; it ends with the connection.
            Task { await socket.close(CloseCode.timeout, timeoutReason(request.timeout, wasKilled: true)) }
        }
        let outcome = await withTaskCancellationHandler {
            await follow(worker, stop, &client)
        } onCancel: {
            stop.clientIsGone()
        }
        let (cause, wasKilled) = await stop.finish()
        await client.endOutput()
        if case .died(let started) = outcome {
            let reason = wasKilled ? Self.killReason(cause) : worker.isBroken ? brokenReason : describe(worker.exit)
            context.lose(worker, because: reason)
            if context.isDeleted { return deleted }
            if !started, cause == nil, !isLast { return nil }
            if cause == nil { await client.error(Self.deathFailure(reason)) }
        }
        if case .done(let failure?, _) = outcome { await client.error(failure) }
        if case .done(_, let interrupted) = outcome {
            await client.control(interrupted || cause != nil ? "interrupted" : "completed")
        }
        return cause == .timeout
            ? WebSocketClose(CloseCode.timeout, timeoutReason(request.timeout, wasKilled: wasKilled))
            : WebSocketClose(WebSocketClose.normal)
    }

    /// Sends the command and passes on what the worker says, until it said all or is dead.
    private func follow(_ worker: InterpreterWorker, _ stop: ExecutionStop, _ client: inout ExecutionClient) async
        -> Outcome
    {
        let command = context.command(request, for: worker)
        let leftovers = worker.feed.begin(command.mark)
        async let sent: Void? = try? worker.send(command.line())
        stop.startTimer(request.timeout)
        await tell(leftovers, to: &client)
        let outcome = await listen(to: worker, number: command.number, stop, &client)
        _ = await sent
        return outcome
    }

    private func listen(
        to worker: InterpreterWorker,
        number: Int,
        _ stop: ExecutionStop,
        _ client: inout ExecutionClient
    ) async -> Outcome {
        var open = Set(OutputStream.allCases)
        var (started, outcome) = (false, Outcome?.none)
        while let event = await worker.feed.take() {
            switch event {
            case .output(let stream, let bytes): await client.output(bytes, stream)
            case .drained(let stream): open.remove(stream)
            case .report(.started(number)) where !started:
                started = true
                stop.begins()
            case .report(.done(number, let failure, let interrupted)) where started && outcome == nil:
                outcome = .done(failure, interrupted: interrupted)
            case .report: worker.breakOff()
            }
            if client.isGone { stop.clientIsGone() }
            if let outcome, open.isEmpty {
                if !worker.feed.end() { worker.breakOff() }
                return outcome
            }
        }
        return .died(started: started)
    }

    private func tell(_ leftovers: [OutputStream: Leftover], to client: inout ExecutionClient) async {
        for stream in OutputStream.allCases {
            guard let leftover = leftovers[stream], leftover.bytes.readableBytes > 0 else { continue }
            if leftover.droppedBytes > 0 {
                let which = "\(leftover.droppedBytes) bytes of \(stream.rawValue)"
                await client.note("\(which) that came while nothing was executed were dropped; the newest follow")
            }
            await client.output(leftover.bytes, stream)
        }
    }

    private static func killReason(_ cause: StopMachine.Cause?) -> String {
        let why = cause == .timeout ? "its timeout" : "its client was gone"
        return "was killed: an execution did not stop within \(InterpreterLimit.interruptGrace) after \(why)"
    }

    private static func deathFailure(_ reason: String) -> PythonFailure {
        PythonFailure(
            name: "InterpreterDied",
            value:
                "the Python process of this context \(reason); the next execution gets a new one, without the variables, "
                + "imports and functions of this",
            traceback: ""
        )
    }
}

private let brokenReason = "broke the interpreter's protocol, since the code wrote to descriptors that are not its own"

private func timeoutReason(_ timeout: Duration?, wasKilled: Bool) -> String {
    let text = "timed out: not finished after \(timeout?.components.seconds ?? 0) s"
    return wasKilled ? text + ", and killed: variables, imports and functions are lost" : text
}

/// Close codes of executions beside those of `WebSocketClose`.
enum CloseCode {
    static let timeout: UInt16 = 4008
    static let policy: UInt16 = 1008
    static let tryAgainLater: UInt16 = 1013
}
