package import NIOCore

/// The messages of TypeScript's own `tsserver`: a line of JSON for each of ours; its own are framed as everybody's.
package struct TypeScriptFormat: MessageFormat {
    private struct Message<Arguments: Encodable>: Encodable {
        var seq: Int
        var type = "request"
        var command: String
        var arguments: Arguments?
    }

    private struct Head: Decodable {
        var type: String
        var request: Int?
        var success: Bool?
        var message: String?

        private enum CodingKeys: String, CodingKey {
            case type, success, message
            case request = "request_seq"
        }
    }

    private struct Answer<Value: Decodable>: Decodable {
        var body: Value?
    }

    package init() {}

    package func request(_ id: Int, _ method: String, _ parameters: (some Encodable)?) throws -> ByteBuffer {
        var line = try encodeJSON(Message(seq: id, command: method, arguments: parameters))
        line.writeInteger(UInt8(ascii: "\n"))
        return line
    }

    package func notification(_ method: String, _ parameters: (some Encodable)?) throws -> ByteBuffer {
        try request(0, method, parameters)
    }

    /// It does one thing after the other, and has no message for this.
    package func cancellation(of id: Int) -> ByteBuffer? { nil }

    package func read(_ message: ByteBuffer) throws -> ServerMessage {
        let head = try decodeMessage(Head.self, from: message)
        guard head.type == "response", let id = head.request else { return .remark }
        guard head.success != false else {
            return .answer(id, refusal: ServerRefusal(message: head.message ?? "no reason given"))
        }
        return .answer(id, refusal: nil)
    }

    package func result<Value: Decodable>(of answer: ByteBuffer, as type: Value.Type) throws -> Value? {
        try decodeMessage(Answer<Value>.self, from: answer).body
    }
}
