import FoundationEssentials
package import NIOCore
import NIOFoundationEssentialsCompat

/// How the messages of one protocol are written and read. The framing of what comes from the server is the same for all.
package protocol MessageFormat: Sendable {
    /// A message that is answered by one with the same number.
    func request(_ id: Int, _ method: String, _ parameters: (some Encodable)?) throws -> ByteBuffer
    /// A message that is not answered.
    func notification(_ method: String, _ parameters: (some Encodable)?) throws -> ByteBuffer
    /// Says that nobody waits for an answer any more; nil if the protocol has no such message.
    func cancellation(of id: Int) -> ByteBuffer?
    /// - Throws: `MessageError` for what is no message of the protocol.
    func read(_ message: ByteBuffer) throws -> ServerMessage
    /// What an answer holds; nil for null.
    /// - Throws: `MessageError` if it is not of the type.
    func result<Value: Decodable>(of answer: ByteBuffer, as type: Value.Type) throws -> Value?
}

/// What a server sent.
package enum ServerMessage: Sendable, Equatable {
    /// To the request with this number; with the server's reason if it refused.
    case answer(Int, refusal: ServerRefusal?)
    /// It asks something, and gets this reply.
    case question(reply: ByteBuffer)
    /// It tells something that nobody asked for.
    case remark
}

/// A server's own error.
package struct ServerRefusal: Error, Sendable, Equatable {
    package static let methodNotFound = -32601

    package var code: Int?
    package var message: String
}

/// Stands for the parameters of a message that has none.
package struct NoParameters: Codable, Sendable {}

func encodeJSON(_ value: some Encodable) throws -> ByteBuffer {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.withoutEscapingSlashes]
    return ByteBuffer(data: try encoder.encode(value))
}

func decodeMessage<Value: Decodable>(_ type: Value.Type, from message: ByteBuffer) throws -> Value {
    do {
        return try JSONDecoder().decode(type, from: message)
    } catch {
        let start = String(decoding: message.readableBytesView.prefix(200), as: UTF8.self)
        throw MessageError(reason: "a message is not what was expected: \(start)")
    }
}
