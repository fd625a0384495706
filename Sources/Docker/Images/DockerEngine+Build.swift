import AsyncHTTPClient
import FoundationEssentials
package import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1
import Synchronization

/// What a build may have and do. Absent limits are the engine's.
package struct BuildSpecification: Sendable, Hashable {
    /// Path of the Dockerfile within the context.
    package var dockerfile: String
    /// The Docker network that its steps are in.
    package var network: String
    /// Of each step.
    package var memoryBytes: Int64?
    /// In thousandths of a core.
    package var milliCPUs: Int64?
    /// The only images whose steps may be used again; those that are not here are passed over.
    package var cacheSources: [String] = []

    package init(dockerfile: String, network: String) {
        self.dockerfile = dockerfile
        self.network = network
    }

    /// What stands for no image: with an empty list the engine would use the steps of every build there ever was here.
    private static let nothing = "martlet.invalid/nothing:nothing"

    /// Base images are as they are here, for whoever builds has seen to that.
    func query() throws -> [(String, String)] {
        var query = [
            ("version", "1"), ("dockerfile", dockerfile), ("networkmode", network), ("rm", "true"), ("forcerm", "true"),
            ("pull", "false"),
            ("cachefrom", try JSONValue.strings(cacheSources + [Self.nothing]).encodedText()),
        ]
        if let memoryBytes { query += [("memory", "\(memoryBytes)"), ("memswap", "\(memoryBytes)")] }
        if let milliCPUs { query += [("cpuperiod", "100000"), ("cpuquota", "\(milliCPUs * 100)")] }
        return query
    }
}

extension DockerEngine {
    /// `operation` of errors that are the engine's word on a build.
    package static let buildOperation = "build an image"

    /// Builds an image with the engine's own builder, from a tar that is never held in memory; returns the image's id. When the
    /// task is cancelled the engine ends the build. Throws `.server` with the engine's words where a step fails.
    package func buildImage<Chunks: AsyncSequence & Sendable>(
        context: Chunks,
        _ specification: BuildSpecification,
        within limit: Duration,
        output: @escaping @Sendable (String) async throws -> Void
    ) async throws -> String where Chunks.Element == ByteBuffer {
        let call = try EngineCall(
            Self.buildOperation,
            .POST,
            ["build"],
            query: try specification.query(),
            body: .tar(.stream(context, length: .unknown))
        )
        let id = Mutex("")
        try await forEachLine(call, within: limit) { line in
            let message = try BuildMessage.read(line, call)
            if let made = message.made?.id { id.withLock { $0 = made } }
            if let text = message.text { try await output(text) }
        }
        let made = id.withLock { $0 }
        guard !made.isEmpty else {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "the engine named no image at the end of the build"
            )
        }
        return made
    }
}

/// One line of a build's answer.
struct BuildMessage: Decodable {
    struct Made: Decodable {
        let id: String?
        enum CodingKeys: String, CodingKey { case id = "ID" }
    }

    let stream: String?
    /// Of a pull.
    let status: String?
    let error: String?
    let made: Made?

    enum CodingKeys: String, CodingKey {
        case stream, status, error
        case made = "aux"
    }

    var text: String? { stream ?? status.map { "\($0)\n" } }

    /// Throws what the engine reports within the stream, after status 200.
    static func read(_ line: ByteBuffer, _ call: EngineCall) throws -> BuildMessage {
        let message: BuildMessage
        do {
            message = try JSONDecoder().decode(BuildMessage.self, from: Data(buffer: line))
        } catch {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "a line of the build is not understood: \(error)"
            )
        }
        if let error = message.error {
            throw DockerError.answered(operation: call.operation, status: 500, message: error)
        }
        return message
    }
}
