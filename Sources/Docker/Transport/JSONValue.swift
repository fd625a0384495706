import FoundationEssentials

/// A JSON document to send. Absent members are left out, so the engine's own defaults hold.
enum JSONValue: Sendable, Hashable, Encodable {
    case null
    case bool(Bool)
    case integer(Int64)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// An object without the members that are nil.
    static func members(_ pairs: [String: JSONValue?]) -> JSONValue { .object(pairs.compactMapValues { $0 }) }

    static func strings(_ values: [String]) -> JSONValue { .array(values.map { .string($0) }) }

    static func strings(_ values: [String: String]) -> JSONValue { .object(values.mapValues { .string($0) }) }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }

    /// The document as text, members in a stable order.
    func encoded() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }
}
