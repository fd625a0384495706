import FoundationEssentials
import NIOCore
import WebSockets

/// The first message of a client.
struct ExecutionRequest: Sendable, Equatable {
    var code: String
    /// Nil for the default one.
    var contextID: String?
    var variables: [String: String]
    /// Nil for none.
    var timeout: Duration?

    /// - Throws: `ToolboxError` that names the field.
    init(_ message: WebSocketMessage) throws {
        struct Fields: Decodable {
            var code: String
            var contextId: String?
            var envs: [String: String]?
            var timeout: Int?
        }
        let data =
            switch message {
            case .text(let text): Data(text.utf8)
            case .binary(let bytes): Data(bytes.readableBytesView)
            }
        let fields: Fields
        do {
            fields = try JSONDecoder().decode(Fields.self, from: data)
        } catch let error as DecodingError {
            throw ToolboxError.invalidBody(describe(error).replacing("body", with: "first message"))
        }
        guard fields.code.utf8.count <= InterpreterLimit.codeBytes else {
            throw ToolboxError.badRequest(
                "field 'code' is \(fields.code.utf8.count) bytes long, the limit is \(InterpreterLimit.codeBytes)"
            )
        }
        code = fields.code
        contextID = fields.contextId.flatMap { $0.isEmpty || $0 == InterpreterContext.defaultID ? nil : $0 }
        variables = fields.envs ?? [:]
        try EnvironmentStore.validate(variables)
        timeout = fields.timeout == nil ? InterpreterLimit.defaultTimeout : try checkedTimeout(fields.timeout)
    }
}
