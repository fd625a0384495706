import CLibPQ
import Glibc

extension Session {
    /// Runs one statement, prepared if it was not yet.
    func run(_ statement: RenderedStatement, _ ticket: Ticket) throws -> PostgresResult {
        let wasPrepared = statements.name(for: statement.shape) != nil
        do {
            return try runPrepared(statement, ticket)
        } catch let error as PostgresError where wasPrepared && error.isStalePlan {
            // The table changed under the plan, or somebody said DISCARD ALL. The statement itself did nothing.
            statements.remove(statement.shape)
            guard !isInTransaction else { throw error }
            return try runPrepared(statement, ticket)
        }
    }

    /// Runs text as it is, without parameters: one statement or several.
    func run(script: String, _ ticket: Ticket) throws -> PostgresResult {
        try exchange(ticket, saying: script) { PQsendQuery($0, script) }
    }

    private func runPrepared(_ statement: RenderedStatement, _ ticket: Ticket) throws -> PostgresResult {
        let name = try prepare(statement.shape, ticket)
        return try exchange(ticket, saying: statement.shape.text) { handle in
            statement.withLibPQParameters { values, lengths, formats in
                PQsendQueryPrepared(handle, name, Int32(statement.parameters.count), values, lengths, formats, 0)
            }
        }
    }

    private func prepare(_ shape: RenderedStatement.Shape, _ ticket: Ticket) throws -> String {
        if let name = statements.name(for: shape) { return name }
        if let oldest = statements.removeForRoom() { try deallocate(oldest, ticket) }
        let name = statements.newName()
        _ = try exchange(ticket, saying: shape.text) {
            PQsendPrepare($0, name, shape.text, Int32(shape.types.count), shape.types)
        }
        statements.insert(shape, as: name)
        return name
    }

    private func deallocate(_ name: String, _ ticket: Ticket) throws {
        do {
            _ = try run(script: "DEALLOCATE \(name)", ticket)
        } catch let error as PostgresError where error.code == .unknownStatement {
            // Somebody else has done so.
        }
    }

    /// Sends and waits for the whole answer. Throws what the server or the interruption says; a connection that cannot be
    /// brought back into step is closed.
    private func exchange(
        _ ticket: Ticket,
        saying text: String,
        send: (OpaquePointer) -> Int32
    ) throws -> PostgresResult {
        let handle = try handle()
        if let interruption = ticket.interruption { throw interruption.error }
        guard send(handle) == 1 else { throw notSent(handle) }
        defer { publishTransactionStatus() }
        var exchange = Exchange()
        while try collect(handle, into: &exchange) { try awaitAnswer(handle, ticket, &exchange) }
        try settle(handle, exchange.cancelling)
        let result = try exchange.outcome(of: text)
        if result.hasDroppedStatements { statements.removeAll() }
        return result
    }

    private func notSent(_ handle: OpaquePointer) -> PostgresError {
        if PQstatus(handle) == CONNECTION_BAD { return loseBroken(handle) }
        return PostgresError(.encodingFailed, String(cString: PQerrorMessage(handle)).onOneLine)
    }

    /// Takes the results that are complete; answers whether more are to come.
    private func collect(_ handle: OpaquePointer, into exchange: inout Exchange) throws -> Bool {
        while PQisBusy(handle) == 0 {
            guard let result = PQgetResult(handle) else {
                if PQstatus(handle) == CONNECTION_BAD { throw loseAnswering(handle, &exchange) }
                return false
            }
            exchange.add(PostgresResult(owning: result))
            if exchange.isCopy {
                throw lose(PostgresError(.unsupported, "COPY is not supported; the connection was closed"))
            }
        }
        return true
    }

    /// Why the server hung up (57P01 and the like) may have been its last words: then that is the better error.
    private func loseAnswering(_ handle: OpaquePointer, _ exchange: inout Exchange) -> any Error {
        while PQisBusy(handle) == 0, let result = PQgetResult(handle) {
            exchange.add(PostgresResult(owning: result))
            if exchange.isCopy { break }
        }
        let lost = loseBroken(handle)
        return exchange.cancelling?.interruption.error ?? exchange.serverError ?? lost
    }

    /// Waits for more of the answer, at most until the deadline; then has the statement cancelled, and waits a little more.
    private func awaitAnswer(_ handle: OpaquePointer, _ ticket: Ticket, _ exchange: inout Exchange) throws {
        let unsent = PQflush(handle)
        guard unsent >= 0 else { throw loseAnswering(handle, &exchange) }
        let events = Int16(POLLIN) | (unsent > 0 ? Int16(POLLOUT) : 0)
        if wait(handle, for: events, until: exchange.cancelling?.givesUpAt ?? ticket.deadline) == .socket {
            guard PQconsumeInput(handle) == 1 else { throw loseAnswering(handle, &exchange) }
            handOutNotifications(handle)
        }
        if let cancelling = exchange.cancelling {
            if cancelling.isHopeless { throw abandon(cancelling) }
        } else if let interruption = ticket.interruption {
            exchange.cancelling = startCancelling(handle, because: interruption)
        }
    }

    /// A cancel request still under way could hit the next statement, so it must have ended before there is one.
    private func settle(_ handle: OpaquePointer, _ cancelling: CancelRequest?) throws {
        guard let cancelling else { return }
        while cancelling.outcome == .underWay && !cancelling.isHopeless {
            _ = wait(nil, for: 0, until: cancelling.givesUpAt)
        }
        if cancelling.outcome != .delivered { throw abandon(cancelling) }
    }

    private func abandon(_ cancelling: CancelRequest) -> any Error {
        _ = lose(PostgresError(.connectionLost, "a statement could not be cancelled, so the connection was closed"))
        return cancelling.interruption.error
    }
}

extension PostgresResult {
    fileprivate var hasDroppedStatements: Bool {
        switch commandTag {
        case "DISCARD ALL", "DEALLOCATE ALL": true
        default: false
        }
    }
}

extension CancelRequest {
    fileprivate var isHopeless: Bool { outcome == .failed || ContinuousClock.now >= givesUpAt }
}

extension PostgresError {
    /// A prepared statement that must be prepared again: unknown name, or "cached plan must not change result type".
    fileprivate var isStalePlan: Bool { code == .unknownStatement || code == .featureNotSupported }
}

/// One question and what has been answered so far. Of several results the first error counts, else the last.
private struct Exchange {
    private var result: PostgresResult?
    var cancelling: CancelRequest?

    var isCopy: Bool {
        switch result?.status {
        case PGRES_COPY_IN, PGRES_COPY_OUT, PGRES_COPY_BOTH: true
        default: false
        }
    }

    private var isError: Bool {
        switch result?.status {
        case PGRES_FATAL_ERROR, PGRES_BAD_RESPONSE: true
        default: false
        }
    }

    var serverError: PostgresError? { isError ? result.map(PostgresError.init(of:)) : nil }

    mutating func add(_ next: PostgresResult) {
        if !isError { result = next }
    }

    func outcome(of text: String) throws -> PostgresResult {
        if var error = serverError {
            if error.code == .queryCanceled, let cancelling { throw cancelling.interruption.error }
            error.statement = text
            throw error
        }
        guard let result else { throw PostgresError(.encodingFailed, "the statement is empty") }
        return result
    }
}
