import FoundationEssentials

/// A Codable value kept as jsonb. Keys are sorted; a `Date` inside is ISO 8601 to the second.
package struct JSON<Value: Sendable>: Sendable {
    package var value: Value

    package init(_ value: Value) { self.value = value }
}

extension JSON: Equatable where Value: Equatable {}

extension JSON: PostgresEncodable where Value: Encodable {
    package static var postgresType: PostgresType { .jsonb }

    package func encodedForPostgres() throws -> PostgresParameter {
        let encoder = JSONEncoder()
        encoder.dateEncodingStrategy = .iso8601
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            return .text(String(decoding: try encoder.encode(value), as: UTF8.self))
        } catch {
            throw PostgresError(.encodingFailed, "\(Value.self) cannot be written as JSON")
        }
    }
}

extension JSON: PostgresDecodable where Value: Decodable {
    package init(postgres value: PostgresValue) throws {
        try value.require(.jsonb, .json)
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .iso8601
        do {
            self.init(try decoder.decode(Value.self, from: Data(value.text.utf8)))
        } catch let error as DecodingError {
            throw PostgresError.mismatch("its JSON is not \(Value.self): \(error.whereAndWhat)")
        }
    }
}

extension DecodingError {
    /// The path and the kind of the fault, without the data.
    fileprivate var whereAndWhat: String {
        switch self {
        case .keyNotFound(let key, let context): "\(context.path) lacks \(key.stringValue)"
        case .typeMismatch(let type, let context): "\(context.path) is no \(type)"
        case .valueNotFound(let type, let context): "\(context.path) is null, not \(type)"
        case .dataCorrupted(let context): "\(context.path) is corrupt"
        @unknown default: "it does not decode"
        }
    }
}

extension DecodingError.Context {
    fileprivate var path: String { "$" + codingPath.map { "." + $0.stringValue }.joined() }
}

/// JSON as text, neither parsed nor checked by us; bound as jsonb (which Postgres checks).
package struct JSONText: PostgresCodable, Hashable {
    package var text: String

    package init(_ text: String) { self.text = text }

    package static var postgresType: PostgresType { .jsonb }

    package func encodedForPostgres() -> PostgresParameter { .text(text) }

    package init(postgres value: PostgresValue) throws {
        try value.require(.jsonb, .json)
        text = value.text
    }
}
