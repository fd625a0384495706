import FoundationEssentials
import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import Store

/// One request, resolved and authorised, as a handler sees it.
struct Call: Sendable {
    let request: Request
    let parameters: [String: String]
    let query: Query
    /// nil only on routes that are open.
    private let optionalCaller: Caller?
    /// Where it came from, in digits.
    let address: String
    let limits: APILimits
    let logger: Logger

    init(
        request: Request,
        parameters: [String: String],
        query: Query,
        caller: Caller?,
        address: String,
        limits: APILimits,
        logger: Logger
    ) {
        self.request = request
        self.parameters = parameters
        self.query = query
        optionalCaller = caller
        self.address = address
        self.limits = limits
        self.logger = logger
    }

    /// Who asks. Throws 401 on a route that was declared open by mistake.
    var caller: Caller {
        get throws {
            guard let optionalCaller else { throw APIError(.unauthorized, "this needs an API key") }
            return optionalCaller
        }
    }

    /// A parameter of the path; the route's pattern has it.
    func parameter(_ name: String) -> String { parameters[name, default: ""] }

    /// A whole number in the path. Throws 400 if it is none or is out of bounds.
    func integer(_ name: String, in bounds: ClosedRange<Int>) throws -> Int {
        let text = parameter(name)
        guard let number = Int(text), bounds.contains(number), String(number) == text else {
            throw APIError.badRequest(
                "\(name) is '\(text.shortened)', but must be a whole number from \(bounds.lowerBound) to \(bounds.upperBound)"
            )
        }
        return number
    }

    /// A truth value in the path. Throws 400 if it is none.
    func boolean(_ name: String) throws -> Bool {
        guard let value = Bool(parameter(name)) else {
            throw APIError.badRequest("\(name) is '\(parameter(name).shortened)', but must be true or false")
        }
        return value
    }

    /// The body as a JSON object, whatever its declared type: some clients declare none. An empty body is an empty object.
    func object() async throws -> [String: JSONValue] {
        let bytes = try await body(upTo: limits.bodyByteLimit, within: limits.bodyDeadline)
        guard !bytes.isEmpty else { return [:] }
        do {
            let value = try JSONDecoder().decode(JSONValue.self, from: Data(bytes))
            guard case .object(let object) = value else { throw APIError.badRequest("the body must be a JSON object") }
            return object
        } catch is DecodingError {
            throw APIError.badRequest("the body is not JSON")
        }
    }

    /// The whole body. Throws 413 where it is longer than `limit`, 408 where it takes longer than `deadline` to come.
    func body(upTo limit: Int, within deadline: Duration) async throws -> [UInt8] {
        let body = request.body
        return try await withThrowingTaskGroup(of: [UInt8]?.self) { group in
            group.addTask {
                do {
                    return Array(buffer: try await body.collect(upTo: limit))
                } catch is NIOTooManyBytesError {
                    throw APIError(.contentTooLarge, "the body is larger than \(limit) bytes, the limit of a request")
                }
            }
            group.addTask {
                try await Task.sleep(for: deadline)
                return nil
            }
            defer { group.cancelAll() }
            guard let bytes = try await group.next() ?? nil else {
                throw APIError(.requestTimeout, "the body did not arrive within \(deadline)")
            }
            return bytes
        }
    }
}

extension JSONEncoder {
    /// Writes answers.
    static let ofAnswers: JSONEncoder = {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        encoder.dateEncodingStrategy = .custom { date, encoder in
            var container = encoder.singleValueContainer()
            try container.encode(Timestamp.text(date))
        }
        return encoder
    }()
}

extension Response {
    /// A JSON answer.
    static func json(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws -> Response {
        let data = try JSONEncoder.ofAnswers.encode(value)
        return Response(
            status: status,
            headers: [.contentType: "application/json; charset=utf-8"],
            body: .init(byteBuffer: ByteBuffer(bytes: data))
        )
    }

    /// An answer without a body.
    static func empty(_ status: HTTPResponse.Status) -> Response { Response(status: status) }
}
