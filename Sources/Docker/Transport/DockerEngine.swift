import AsyncHTTPClient
import FoundationEssentials
package import Logging
import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1
import Synchronization

/// A client of one Docker Engine.
///
/// Calls may be made concurrently. Each has a deadline and throws `DockerError`, or `CancellationError` when its task is
/// cancelled. `shutdown()` must be called once before the last reference goes away.
package final class DockerEngine: Sendable {
    /// The oldest Engine API that has all we use (Docker 20.10).
    package static let minimumAPIVersion = APIVersion(major: 1, minor: 41)

    package let host: DockerHost
    package let limits: EngineLimits
    let logger: Logger
    private let client: HTTPClient
    private let negotiated = Mutex<APIVersion?>(nil)

    /// Does no I/O; the API version is negotiated by the first call.
    package init(host: DockerHost, logger: Logger, limits: EngineLimits = EngineLimits()) {
        self.host = host
        self.logger = logger
        self.limits = limits
        client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: Self.configuration(limits))
    }

    /// Closes every connection; calls under way fail.
    package func shutdown() async throws {
        try await client.shutdown()
    }

    private static func configuration(_ limits: EngineLimits) -> HTTPClient.Configuration {
        var configuration = HTTPClient.Configuration(redirectConfiguration: .disallow)
        configuration.timeout.connect = .seconds(5)
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = limits.connections
        // A refused connection is reported at once; whoever calls decides about trying again.
        configuration.connectionPool.retryConnectionEstablishment = false
        configuration.httpVersion = .http1Only
        return configuration
    }

    // MARK: - Calls

    /// Sends `call` and decodes the answer.
    func value<Value: Decodable & Sendable>(_ type: Value.Type, _ call: EngineCall, within limit: Duration) async throws
        -> Value
    {
        let body = try await send(call, within: limit)
        do {
            return try JSONDecoder().decode(type, from: Data(buffer: body))
        } catch {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "the engine's answer is not understood: \(error)"
            )
        }
    }

    /// Sends `call` and reads its whole, bounded answer. Success is 2xx, and 304 for "already so".
    @discardableResult
    func send(_ call: EngineCall, within limit: Duration) async throws -> ByteBuffer {
        let version = try await apiVersion()
        return try await sendRaw(call, prefix: version.prefix, within: limit)
    }

    /// Sends `call` and hands over the streaming answer. `limit` covers everything up to the answer's head.
    func open(_ call: EngineCall, within limit: Duration) async throws -> HTTPClientResponse {
        let version = try await apiVersion()
        return try await withDeadline(limit, operation: call.operation) {
            let response = try await self.execute(call, prefix: version.prefix)
            try await self.checkStatus(response, call)
            return response
        }
    }

    /// Streams the lines of an answer to `onLine`; `limit` covers the whole exchange.
    func forEachLine(
        _ call: EngineCall,
        within limit: Duration,
        _ onLine: @escaping @Sendable (ByteBuffer) async throws -> Void
    )
        async throws
    {
        let version = try await apiVersion()
        try await withDeadline(limit, operation: call.operation) {
            let response = try await self.execute(call, prefix: version.prefix)
            try await self.checkStatus(response, call)
            var lines = LineReader(response.body)
            while let line = try await self.translatingErrors(call, { try await lines.next() }) {
                try await onLine(line)
            }
        }
    }

    /// Streams the chunks of an answer to `onChunk`; `limit` covers the whole exchange.
    func forEachChunk(
        _ call: EngineCall,
        within limit: Duration,
        _ onChunk: @escaping @Sendable (ByteBuffer) async throws -> Void
    )
        async throws
    {
        let version = try await apiVersion()
        try await withDeadline(limit, operation: call.operation) {
            let response = try await self.execute(call, prefix: version.prefix)
            try await self.checkStatus(response, call)
            var chunks = response.body.makeAsyncIterator()
            while let chunk = try await self.translatingErrors(call, { try await chunks.next(isolation: #isolation) }) {
                try await onChunk(chunk)
            }
        }
    }

    private func sendRaw(_ call: EngineCall, prefix: String, within limit: Duration) async throws -> ByteBuffer {
        try await withDeadline(limit, operation: call.operation) {
            let response = try await self.execute(call, prefix: prefix)
            try await self.checkStatus(response, call)
            return try await self.translatingErrors(call) {
                try await response.body.collect(upTo: self.limits.bodyBytes)
            }
        }
    }

    private func execute(_ call: EngineCall, prefix: String) async throws -> HTTPClientResponse {
        var request = HTTPClientRequest(url: "http+unix://" + percentEncoded(host.socketPath) + prefix + call.path)
        request.method = call.method
        request.headers.add(name: "Host", value: "docker")
        for (name, value) in call.headers { request.headers.add(name: name, value: value) }
        switch call.body {
        case .none: break
        case .json(let value):
            request.headers.add(name: "Content-Type", value: "application/json")
            request.body = .bytes(ByteBuffer(data: try value.encoded()))
        case .tar(let body):
            request.headers.add(name: "Content-Type", value: "application/x-tar")
            request.body = body
        }
        let prepared = request
        return try await translatingErrors(call) { try await self.client.execute(prepared, deadline: .distantFuture) }
    }

    private func checkStatus(_ response: HTTPClientResponse, _ call: EngineCall) async throws {
        let status = Int(response.status.code)
        guard !(200..<300).contains(status), status != 304 else { return }
        let body = try await translatingErrors(call) { try await response.body.collect(upTo: self.limits.bodyBytes) }
        let message =
            (try? JSONDecoder().decode(ErrorAnswer.self, from: Data(buffer: body)))?.message ?? String(buffer: body)
        if status == 400, message.contains("API version") { forgetVersion() }
        throw DockerError.answered(operation: call.operation, status: status, message: message)
    }

    /// Everything the HTTP client throws means that the engine did not answer.
    private func translatingErrors<Value>(_ call: EngineCall, _ work: () async throws -> Value) async throws
        -> Value
    {
        do {
            return try await work()
        } catch let error as DockerError {
            throw error
        } catch let error as NIOTooManyBytesError {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "the answer is larger than \(error.maxBytes ?? limits.bodyBytes) bytes"
            )
        } catch {
            if Task.isCancelled || error is CancellationError { throw CancellationError() }
            forgetVersion()
            throw DockerError(
                operation: call.operation,
                kind: .unavailable,
                message: "no answer from \(host): \(error); look whether the engine runs"
            )
        }
    }

    // MARK: - API version

    /// The version put before every path: the oldest one we know that the engine still serves, so that its behaviour is
    /// the tested one. Forgotten when the engine goes away, since another may come back.
    private func apiVersion() async throws -> APIVersion {
        if let known = negotiated.withLock({ $0 }) { return known }
        let offered = try await version()
        let chosen = try APIVersion.chosen(offered)
        negotiated.withLock { $0 = chosen }
        return chosen
    }

    private func forgetVersion() {
        negotiated.withLock { $0 = nil }
    }

    /// Asks the engine for its versions.
    package func version() async throws -> EngineVersion {
        let call = try EngineCall("read the engine's version", .GET, ["version"])
        let body = try await sendRaw(call, prefix: "", within: limits.call)
        return try JSONDecoder().decode(EngineVersion.self, from: Data(buffer: body))
    }
}

private struct ErrorAnswer: Decodable {
    let message: String
}
