/// A value that can be bound to a parameter.
package protocol PostgresEncodable: Sendable {
    /// The type the parameter is declared with, also when the value is NULL.
    static var postgresType: PostgresType { get }

    /// The value in Postgres's text or binary form. Throws `encoding_failed` if Postgres has no such value.
    func encodedForPostgres() throws -> PostgresParameter
}

/// A value that goes both ways.
package typealias PostgresCodable = PostgresEncodable & PostgresDecodable

/// An encoded value.
package enum PostgresParameter: Sendable, Hashable {
    case null
    /// The text form, as in a quoted literal.
    case text(String)
    /// The binary form of the declared type.
    case binary([UInt8])

    var isNull: Bool { self == .null }

    /// Appends the bytes; answers libpq's number for their format.
    func append(to block: inout [UInt8]) -> Int32 {
        switch self {
        case .null: return 0
        case .text(let text):
            block.append(contentsOf: text.utf8)
            return 0
        case .binary(let bytes):
            block.append(contentsOf: bytes)
            return 1
        }
    }

    func checked(number: Int) throws -> PostgresParameter {
        if case .text(let text) = self { _ = try text.rejectingNUL("parameter $\(number)") }
        return self
    }
}

extension Optional: PostgresEncodable where Wrapped: PostgresEncodable {
    package static var postgresType: PostgresType { Wrapped.postgresType }

    package func encodedForPostgres() throws -> PostgresParameter { try self?.encodedForPostgres() ?? .null }
}

extension RawRepresentable where Self: PostgresEncodable, RawValue: PostgresEncodable {
    package static var postgresType: PostgresType { RawValue.postgresType }

    package func encodedForPostgres() throws -> PostgresParameter { try rawValue.encodedForPostgres() }
}
