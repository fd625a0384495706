package import NIOCore

/// JSON-RPC 2.0 as the Language Server Protocol uses it.
package struct JSONRPCFormat: MessageFormat {
    private struct Message<Parameters: Encodable>: Encodable {
        var jsonrpc = "2.0"
        var id: Int?
        var method: String
        var params: Parameters?
    }

    private struct Head: Decodable {
        var id: RequestID?
        var method: String?
        var error: Failure?
    }

    private struct Failure: Decodable {
        var code: Int
        var message: String
    }

    private struct Answer<Value: Decodable>: Decodable {
        var result: Value?
    }

    private struct Cancellation: Encodable {
        var id: Int
    }

    package init() {}

    package func request(_ id: Int, _ method: String, _ parameters: (some Encodable)?) throws -> ByteBuffer {
        framed(try encodeJSON(Message(id: id, method: method, params: parameters)))
    }

    package func notification(_ method: String, _ parameters: (some Encodable)?) throws -> ByteBuffer {
        framed(try encodeJSON(Message(method: method, params: parameters)))
    }

    package func cancellation(of id: Int) -> ByteBuffer? {
        try? notification("$/cancelRequest", Cancellation(id: id))
    }

    package func read(_ message: ByteBuffer) throws -> ServerMessage {
        let head = try decodeMessage(Head.self, from: message)
        switch (head.method, head.id) {
        case (let method?, let id?): return .question(reply: framed(try reply(to: method, id, message)))
        case (.some, nil): return .remark
        case (nil, .number(let id)?):
            return .answer(id, refusal: head.error.map { ServerRefusal(code: $0.code, message: $0.message) })
        case (nil, .text?), (nil, nil): return .remark
        }
    }

    package func result<Value: Decodable>(of answer: ByteBuffer, as type: Value.Type) throws -> Value? {
        try decodeMessage(Answer<Value>.self, from: answer).result
    }

    private func framed(_ body: ByteBuffer) -> ByteBuffer {
        var message = ByteBuffer(string: "Content-Length: \(body.readableBytes)\r\n\r\n")
        message.writeImmutableBuffer(body)
        return message
    }
}

/// Numbers are ours; servers choose texts too.
private enum RequestID: Codable, Sendable {
    case number(Int)
    case text(String)

    init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if let number = try? value.decode(Int.self) {
            self = .number(number)
        } else {
            self = .text(try value.decode(String.self))
        }
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .number(let number): try container.encode(number)
        case .text(let text): try container.encode(text)
        }
    }
}

/// Items of one question for settings that are answered.
private let configurationItemLimit = 1000

private struct Reply<Result: Encodable>: Encodable {
    var jsonrpc = "2.0"
    var id: RequestID
    var result: Result

    private enum CodingKeys: CodingKey {
        case jsonrpc, id, result
    }

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(jsonrpc, forKey: .jsonrpc)
        try values.encode(id, forKey: .id)
        // Null must be said, not left out.
        try values.encode(result, forKey: .result)
    }
}

private struct Refusal: Encodable {
    struct Failure: Encodable {
        var code: Int
        var message: String
    }

    var jsonrpc = "2.0"
    var id: RequestID
    var error: Failure
}

private struct ConfigurationQuestion: Decodable {
    struct Parameters: Decodable {
        var items: [NoParameters]
    }

    var params: Parameters
}

/// Servers wait for the replies to what they ask, so that each question gets one: there are no settings, registrations are
/// taken note of, edits are refused.
private func reply(to method: String, _ id: RequestID, _ message: ByteBuffer) throws -> ByteBuffer {
    let nothing: Bool? = nil
    switch method {
    case "workspace/configuration":
        let count = try decodeMessage(ConfigurationQuestion.self, from: message).params.items.count
        return try encodeJSON(Reply(id: id, result: [Bool?](repeating: nil, count: min(count, configurationItemLimit))))
    case "workspace/applyEdit": return try encodeJSON(Reply(id: id, result: ["applied": false]))
    case "window/showDocument": return try encodeJSON(Reply(id: id, result: ["success": false]))
    case "client/registerCapability", "client/unregisterCapability", "window/workDoneProgress/create",
        "window/showMessageRequest", "workspace/workspaceFolders":
        return try encodeJSON(Reply(id: id, result: nothing))
    case _ where method.hasSuffix("/refresh"): return try encodeJSON(Reply(id: id, result: nothing))
    default:
        let failure = Refusal.Failure(code: ServerRefusal.methodNotFound, message: "this client cannot \(method)")
        return try encodeJSON(Refusal(id: id, error: failure))
    }
}
