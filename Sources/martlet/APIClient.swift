import ArgumentParser
import AsyncHTTPClient
import FoundationEssentials
import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1

/// Martlet's own REST interface, as `martlet sandbox` uses it: the same calls that the SDKs make.
struct APIClient {
    let base: String
    let key: String
    /// Longest wait for one answer.
    static let callLimit = TimeAmount.seconds(90)
    static let answerLimitBytes = 256 << 20

    /// A call that was answered with an error, in the server's own words.
    struct Refused: Error, CustomStringConvertible {
        let status: Int
        let message: String
        var description: String { "\(message) (HTTP \(status))" }
    }

    private struct ErrorBody: Decodable {
        let message: String
    }

    func call<Answer: Decodable>(_ method: String, _ path: String, body: (any Encodable & Sendable)? = nil) async throws
        -> Answer
    {
        try JSONDecoder().decode(Answer.self, from: try await send(method, url: base + path, body: body))
    }

    /// Sends one request and returns the body of a 2xx answer.
    ///
    /// - Throws: ``Refused`` for any other answer; the client's own errors when there is none.
    @discardableResult
    func send(_ method: String, url: String, body: (any Encodable & Sendable)? = nil) async throws -> Data {
        var request = HTTPClientRequest(url: url)
        request.method = .RAW(value: method)
        request.headers.add(name: "Authorization", value: "Bearer \(key)")
        request.headers.add(name: "X-Daytona-Source", value: "martlet-cli")
        if let body {
            request.headers.add(name: "Content-Type", value: "application/json")
            request.body = .bytes(try JSONEncoder().encode(body))
        }
        let response = try await HTTPClient.shared.execute(request, timeout: Self.callLimit)
        let answer = Data(buffer: try await response.body.collect(upTo: Self.answerLimitBytes))
        guard (200..<300).contains(response.status.code) else {
            let message = (try? JSONDecoder().decode(ErrorBody.self, from: answer))?.message
            throw Refused(status: Int(response.status.code), message: message ?? response.status.reasonPhrase)
        }
        return answer
    }
}

struct APIOptions: ParsableArguments {
    @Option(help: "Base of the API, without a slash at the end. [DAYTONA_API_URL]")
    var apiURL = Environment["DAYTONA_API_URL"] ?? "http://127.0.0.1:3986/api"

    @Option(help: "API key. [DAYTONA_API_KEY]")
    var apiKey: String?

    var client: APIClient {
        get throws {
            guard let key = apiKey ?? Environment["DAYTONA_API_KEY"] else {
                throw ValidationError(
                    "No API key given. Set --api-key or DAYTONA_API_KEY; `. .martlet/env` sets it after ops/quickstart."
                )
            }
            return APIClient(base: apiURL, key: key)
        }
    }
}
