/// A type that a column can be read as.
package protocol PostgresDecodable {
    /// Reads a value that is not NULL. Throws `PostgresError.mismatch` with what is wrong; `Row` adds the column.
    init(postgres value: PostgresValue) throws

    /// What NULL is read as. The default throws; `Optional` answers nil.
    static func fromPostgresNull() throws -> Self
}

extension PostgresDecodable {
    package static func fromPostgresNull() throws -> Self { throw PostgresError.mismatch("it is NULL") }
}

/// A value as the server sent it: its type and its text form (ISO dates in UTC, ISO intervals, hexadecimal bytea).
package struct PostgresValue: Sendable {
    /// The column's type; unknown for elements of arrays that are not built in.
    package let type: PostgresType
    /// The text form.
    package let text: String

    package init(type: PostgresType, text: String) {
        self.type = type
        self.text = text
    }

    /// Throws unless the type is one of these.
    package func require(_ types: PostgresType...) throws {
        guard types.contains(type) else { throw PostgresError.mismatch("only \(types) can be") }
    }
}

extension Optional: PostgresDecodable where Wrapped: PostgresDecodable {
    package init(postgres value: PostgresValue) throws { self = .some(try Wrapped(postgres: value)) }

    package static func fromPostgresNull() throws -> Self { .none }
}

extension RawRepresentable where Self: PostgresDecodable, RawValue: PostgresDecodable {
    package init(postgres value: PostgresValue) throws {
        guard let known = Self(rawValue: try RawValue(postgres: value)) else {
            throw PostgresError.mismatch("the value is none of those that \(Self.self) knows")
        }
        self = known
    }
}
