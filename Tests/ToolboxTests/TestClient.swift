import NIOCore
import NIOHTTP1
import NIOPosix

/// A small HTTP/1.1 client that streams both ways, so that tests see the daemon's bytes as they are.
struct TestClient: Sendable {
    struct Answer: Sendable {
        var status: Int
        var headers: HTTPHeaders
        var body: ByteBuffer

        var text: String { String(buffer: body) }
    }

    static let token = "a token for tests"

    let port: Int
    var sendsToken = true

    /// Sends a request whose body is in memory.
    func call(
        _ method: HTTPMethod,
        _ target: String,
        headers: [(String, String)] = [],
        body: String = ""
    ) async throws -> Answer {
        try await call(
            method,
            target,
            headers: headers,
            bodyLength: body.utf8.count,
            pieces: [ByteBuffer(string: body)]
        )
    }

    /// Sends a request piece by piece and collects the answer; `onPiece` gets the answer's body instead, if given.
    func call(
        _ method: HTTPMethod,
        _ target: String,
        headers: [(String, String)] = [],
        bodyLength: Int?,
        pieces: some Sequence<ByteBuffer> & Sendable,
        onPiece: (@Sendable (ByteBuffer) -> Void)? = nil
    ) async throws -> Answer {
        let channel = try await connect()
        return try await channel.executeThenClose { inbound, outbound in
            async let sent: Void = send(method, target, headers, bodyLength, pieces, to: outbound)
            var answer = Answer(status: 0, headers: [:], body: ByteBuffer())
            reading: for try await part in inbound {
                switch part {
                case .head(let head) where head.status == .continue: continue
                case .head(let head): (answer.status, answer.headers) = (Int(head.status.code), head.headers)
                case .body(var piece):
                    if let onPiece { onPiece(piece) } else { answer.body.writeBuffer(&piece) }
                case .end: break reading
                }
            }
            try await sent
            return answer
        }
    }

    /// Sends a request and hangs up after a while, without waiting for the answer.
    func callAndHangUp(_ method: HTTPMethod, _ target: String, body: String, after time: Duration) async throws {
        let channel = try await connect()
        try await channel.executeThenClose { _, outbound in
            try await send(method, target, [], body.utf8.count, [ByteBuffer(string: body)], to: outbound)
            try await Task.sleep(for: time)
        }
    }

    private func connect() async throws -> NIOAsyncChannel<HTTPClientResponsePart, HTTPClientRequestPart> {
        try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(host: "127.0.0.1", port: port) {
            channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHTTPClientHandlers()
                return try NIOAsyncChannel(wrappingChannelSynchronously: channel)
            }
        }
    }

    private func send(
        _ method: HTTPMethod,
        _ target: String,
        _ headers: [(String, String)],
        _ length: Int?,
        _ pieces: some Sequence<ByteBuffer> & Sendable,
        to outbound: NIOAsyncChannelOutboundWriter<HTTPClientRequestPart>
    ) async throws {
        var all = HTTPHeaders([("Host", "sandbox")] + headers)
        if sendsToken { all.add(name: "X-Martlet-Token", value: Self.token) }
        if let length {
            all.add(name: "Content-Length", value: String(length))
        } else {
            all.add(name: "Transfer-Encoding", value: "chunked")
        }
        try await outbound.write(.head(HTTPRequestHead(version: .http1_1, method: method, uri: target, headers: all)))
        for piece in pieces { try await outbound.write(.body(.byteBuffer(piece))) }
        try await outbound.write(.end(nil))
    }
}
