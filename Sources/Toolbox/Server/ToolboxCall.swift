import FoundationEssentials
import HTTPTypes
package import Hummingbird
package import Logging
package import NIOCore
import NIOFoundationEssentialsCompat

/// Largest body of a route that takes JSON, in bytes; commands and code travel in it.
package let jsonBodyLimitBytes = 64 << 20

/// One request on its way to its route.
package struct ToolboxCall: Sendable {
    package var request: Request
    package var query: QueryParameters
    /// Values of the `{name}` segments of the route's path.
    package var parameters: [String: String]
    package var channel: any Channel
    package var logger: Logger

    /// Reads the whole body and decodes it as JSON, whatever its content type says.
    /// - Throws: 413 above `jsonBodyLimitBytes`, 400 naming the field that is wrong.
    package func decode<Body: Decodable>(_ type: Body.Type) async throws -> Body {
        let buffer = try await collectBody()
        do {
            return try JSONDecoder().decode(type, from: buffer)
        } catch let error as DecodingError {
            throw ToolboxError.invalidBody(describe(error))
        }
    }

    /// Reads and drops the body, so that a client that is still sending sees the answer. Only if nothing of it was read yet.
    package func drain() async {
        do {
            for try await _ in request.body {}
        } catch {
            // The client is gone: nobody is left to be told.
        }
    }

    private func collectBody() async throws -> ByteBuffer {
        do {
            return try await request.body.collect(upTo: jsonBodyLimitBytes)
        } catch is NIOTooManyBytesError {
            throw ToolboxError(
                .contentTooLarge,
                "BAD_REQUEST",
                "the body is larger than \(jsonBodyLimitBytes) bytes, the limit for JSON; send large data with /files/bulk-upload"
            )
        }
    }
}

private func describe(_ error: DecodingError) -> String {
    func name(_ path: [any CodingKey]) -> String {
        path.isEmpty ? "the body" : "field '" + path.map(\.stringValue).joined(separator: ".") + "'"
    }
    switch error {
    case .keyNotFound(let key, let context): return "\(name(context.codingPath + [key])) is missing"
    case .typeMismatch(let type, let context): return "\(name(context.codingPath)) is not of type \(type)"
    case .valueNotFound(let type, let context): return "\(name(context.codingPath)) is null, not of type \(type)"
    case .dataCorrupted(let context) where context.codingPath.isEmpty: return "the body is not valid JSON"
    case .dataCorrupted(let context): return "\(name(context.codingPath)) is not valid: \(context.debugDescription)"
    @unknown default: return "the body is not what this route takes"
    }
}

/// An answer with a JSON body.
func jsonResponse(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws -> Response {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.withoutEscapingSlashes]
    let data = try encoder.encode(value)
    return Response(
        status: status,
        headers: [.contentType: "application/json"],
        body: ResponseBody(byteBuffer: ByteBuffer(data: data))
    )
}

/// An answer without a body.
func emptyResponse(_ status: HTTPResponse.Status) -> Response {
    Response(status: status)
}
