import Domain
import NIOCore
import Store

/// A request on its way: routed, authorised, given a tunnel, sent.
extension ClientConnection {
    /// The port that the daemon listens on in every sandbox.
    static let toolboxPort = 2280

    /// A request's head is complete. Throws where the request itself is at fault.
    func begin(_ head: RequestHead) throws(ProxyRefusal) {
        if let expectation = head.fields.expectation {
            let isKnown = head.bytes.withUnsafeReadableBytes { Syntax.equals($0, expectation, "100-continue") }
            guard isKnown else { throw ProxyRefusal(417, "BAD_REQUEST", "only 'Expect: 100-continue' is understood") }
        }
        if isPreview(head) {
            throw ProxyRefusal(501, "NOT_IMPLEMENTED", "previews are not served yet; use /toolbox/<sandbox id>/<path>")
        }
        let target = head.target
        let path = head.bytes.withUnsafeReadableBytes { ToolboxPath($0, target: target) }
        guard let path else { return answerOwnPath(head) }
        do {
            let credential = try lane.admission.credential(of: head, path)
            let exchange = Exchange(head, path: path, credential: credential, id: lane.nextRequestID())
            self.exchange = exchange
            admit(exchange)
        } catch {
            refuse(error, head)
        }
    }

    /// `<port>-<id>.<domain>`: the seam for previews.
    private func isPreview(_ head: RequestHead) -> Bool {
        guard let host = head.fields.host else { return false }
        return head.bytes.withUnsafeReadableBytes { bytes in
            var digits = host.lowerBound
            while digits < host.upperBound, Syntax.isDigit(bytes[digits]) { digits += 1 }
            return digits > host.lowerBound && digits < host.upperBound && bytes[digits] == UInt8(ascii: "-")
        }
    }

    private func answerOwnPath(_ head: RequestHead) {
        guard head.text(head.target) == "/health", head.isGET || head.isHEAD else {
            return refuse(.noSuchPath, head)
        }
        let body = head.isHEAD ? "" : "{\"status\":\"ok\"}"
        let closes = !head.keepsAlive || head.framing != .none
        let connection = closes ? "Connection: close\r\n" : ""
        respond(
            ByteBuffer(
                string:
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\(connection)\r\n\(body)"
            ),
            closes: closes
        )
    }

    /// Answers a request that has no exchange. Its body, if it has one, is thrown away with the connection.
    private func refuse(_ refusal: ProxyRefusal, _ head: RequestHead) {
        let path = String(head.text(head.target).prefix { $0 != "?" })
        var body = BodyScanner(head.framing, allowsTrailers: false)
        let closes = !head.keepsAlive || !skip(&body)
        respond(
            refusal.response(path: path, requestID: lane.nextRequestID(), closes: closes, omitsBody: head.isHEAD),
            closes: closes
        )
    }

    /// Answers an exchange instead of its sandbox.
    func refuse(_ refusal: ProxyRefusal, _ exchange: Exchange) {
        let closes = willClose(after: exchange) || !skip(&exchange.body)
        answer(refusal, closes: closes)
    }

    /// Throws away a body that is here already; false where more of it would have to come.
    private func skip(_ body: inout BodyScanner) -> Bool {
        guard !body.isComplete else { return true }
        guard let taken = try? inbound.withScanned(&body, visit: { _ in }) else { return false }
        inbound.moveReaderIndex(forwardBy: taken)
        return body.isComplete
    }

    // MARK: Admission

    private func admit(_ exchange: Exchange) {
        guard let context else { return }
        switch lane.admission.decide(exchange.credential, on: exchange.path.sandbox, loop: context.eventLoop) {
        case .admitted(let destination): open(exchange, to: destination)
        case .refused(let refusal): refuse(refusal, exchange)
        case .undecided(let future): wait(for: future, exchange)
        }
    }

    private func wait(for future: EventLoopFuture<Destination>, _ exchange: Exchange) {
        enter(.waiting)
        future.assumeIsolated().whenComplete { result in
            guard self.exchange === exchange else { return }
            switch result {
            case .success(let destination): self.open(exchange, to: destination)
            case .failure(let error):
                self.refuse(error as? ProxyRefusal ?? .unavailable("the lookup failed; try again"), exchange)
                self.advance()
            }
        }
    }

    // MARK: Tunnel

    private func open(_ exchange: Exchange, to destination: Destination) {
        exchange.destination = destination
        markActivity(exchange)
        let key = TunnelKey(
            sandbox: exchange.path.sandbox,
            port: Self.toolboxPort,
            epoch: destination.route.epoch
        )
        if !exchange.hasRetried, let tunnel = lane.pool.take(key) { return send(exchange, through: tunnel) }
        enter(.waiting)
        lane.pool.open(key, to: destination) { result in self.opened(result, for: exchange) }
    }

    private func opened(_ result: Result<Tunnel, TunnelFailure>, for exchange: Exchange) {
        guard self.exchange === exchange else {
            // The client left while the tunnel was opened: the next one may have it.
            if case .success(let tunnel) = result { lane.pool.give(tunnel) }
            return
        }
        switch result {
        case .success(let tunnel): send(exchange, through: tunnel)
        case .failure(let failure) where failure.routeIsStale && !exchange.hasRefreshedRoute:
            refreshRoute(exchange)
        case .failure(let failure):
            refuse(failure.refusal, exchange)
            advance()
        }
    }

    /// The runner knows better than the cache: the database is asked anew, once.
    private func refreshRoute(_ exchange: Exchange) {
        guard let context else { return }
        exchange.hasRefreshedRoute = true
        lane.table.destinations.forget(exchange.path.sandbox)
        let future = lane.admission.ask(exchange.credential, on: exchange.path.sandbox, loop: context.eventLoop)
        wait(for: future, exchange)
    }

    // MARK: Sending

    /// Head and what is there of the body go out in one piece.
    private func send(_ exchange: Exchange, through tunnel: Tunnel) {
        guard let destination = exchange.destination else { return }
        let bytes: ByteBuffer
        do {
            bytes = try firstBytes(of: exchange, to: destination)
        } catch {
            lane.pool.give(tunnel)
            return answer(error, closes: true)
        }
        exchange.tunnel = tunnel
        if exchange.body.isComplete, bytes.readableBytes <= lane.limits.replayBytesLimit { exchange.replay = bytes }
        enter(.exchanging)
        if exchange.head.expectsContinue, !exchange.body.isComplete {
            write(ByteBuffer(string: "HTTP/1.1 100 Continue\r\n\r\n"))
            flush()
        }
        tunnel.begin(exchange, for: self, bytes: bytes)
        resumeReading()
    }

    private func firstBytes(of exchange: Exchange, to destination: Destination) throws(ProxyRefusal) -> ByteBuffer {
        if let replay = exchange.replay { return replay }
        let taken = try inbound.withScanned(&exchange.body) { _ in }
        var bytes = ByteBuffer()
        bytes.reserveCapacity(exchange.head.bytes.readableBytes + 512 + taken)
        let additions = RequestAdditions(
            tokenLine: destination.tokenLine,
            clientAddress: clientAddress,
            requestID: exchange.id
        )
        exchange.head.write(
            to: &bytes,
            path: exchange.path.rest,
            adding: additions,
            upgrades: exchange.head.upgradesToWebSocket
        )
        if var slice = inbound.readSlice(length: taken) { bytes.writeBuffer(&slice) }
        return bytes
    }

    /// Sends on what has come of the request's body.
    func sendBody() {
        guard let exchange, let tunnel = exchange.tunnel, !exchange.body.isComplete else { return }
        do {
            let taken = try inbound.withScanned(&exchange.body) { _ in }
            if taken > 0, let slice = inbound.readSlice(length: taken) { tunnel.send(slice) }
        } catch {
            tunnel.abandon()
            if exchange.responseBegan { cut() } else { answer(error, closes: true) }
        }
    }

    // MARK: Failure

    /// The tunnel broke before the response was complete.
    func tunnelFailed(_ tunnel: Tunnel, _ reason: String) {
        guard let exchange, exchange.tunnel === tunnel else { return }
        exchange.tunnel = nil
        if exchange.responseBegan || phase == .raw { return cut() }
        if maySendAgain(exchange, after: tunnel), let destination = exchange.destination {
            exchange.hasRetried = true
            return open(exchange, to: destination)
        }
        refuse(.badGateway("\(reason) before it answered; the request may have been carried out"), exchange)
        advance()
    }

    /// A pooled tunnel may have been closed by the server just when it was taken. What does no harm when done twice, and
    /// is still at hand, is sent again, once, over a fresh one.
    private func maySendAgain(_ exchange: Exchange, after tunnel: Tunnel) -> Bool {
        tunnel.wasUsed && !exchange.hasRetried && exchange.replay != nil && exchange.head.isIdempotent
    }
}
