import AsyncHTTPClient
import FoundationEssentials
package import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1

/// What is at a path of a container.
package struct PathInspection: Sendable, Hashable, Decodable {
    /// Where a symbolic link ends when all links are followed within the container, whether something is there or not; nil for
    /// what is no link.
    package let linkTarget: String?

    package init(from decoder: any Decoder) throws {
        let target = try decoder.container(keyedBy: CodingKeys.self).decodeIfPresent(String.self, forKey: .linkTarget)
        linkTarget = target.flatMap { $0.isEmpty ? nil : $0 }
    }

    private enum CodingKeys: CodingKey { case linkTarget }
}

// Files of a container, whether it runs or not. The engine follows links on the way to a path within the container.
extension DockerEngine {
    /// Nil where nothing is at `path`, or the container is not there.
    package func inspectPath(_ path: String, of container: String) async throws -> PathInspection? {
        let call = try filesCall("look at \(path) of container \(container)", .HEAD, path, container)
        do {
            let response = try await open(call, within: limits.lifecycle)
            _ = try await response.body.collect(upTo: limits.bodyBytes)
            let header = response.headers.first(name: "X-Docker-Container-Path-Stat") ?? ""
            return try JSONDecoder().decode(PathInspection.self, from: Data(base64Encoded: header) ?? Data())
        } catch let error as DockerError where error.kind == .notFound {
            return nil
        } catch let error as DecodingError {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "the engine's answer is not understood: \(error)"
            )
        }
    }

    /// Unpacks a tar in the folder `path`. Throws `.notFound` where there is none, or no container.
    package func unpack(_ tar: ByteBuffer, into path: String, of container: String) async throws {
        var call = try filesCall("unpack files at \(path) of container \(container)", .PUT, path, container)
        call.body = .tar(.bytes(tar))
        try await send(call, within: limits.transfer)
    }

    private func filesCall(_ operation: String, _ method: HTTPMethod, _ path: String, _ container: String) throws
        -> EngineCall
    {
        try EngineCall(operation, method, ["containers", container, "archive"], query: [("path", path)])
    }
}
