package import FoundationEssentials

extension Bool: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .bool }
    package static var postgresArrayType: PostgresType { .boolArray }

    package func encodedForPostgres() -> PostgresParameter { .text(self ? "t" : "f") }

    package init(postgres value: PostgresValue) throws {
        try value.require(.bool)
        self = value.text == "t"
    }
}

extension FixedWidthInteger {
    /// Reads any whole number that fits; `numeric` too, because `sum(int8)` is one.
    fileprivate init(postgresInteger value: PostgresValue) throws {
        try value.require(.int2, .int4, .int8, .oid, .numeric)
        guard let number = Self(value.text) else {
            throw PostgresError.mismatch("the number is not whole or does not fit \(Self.self)")
        }
        self = number
    }
}

extension Int: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .int8 }
    package static var postgresArrayType: PostgresType { .int8Array }
    package func encodedForPostgres() -> PostgresParameter { .text(String(self)) }
    package init(postgres value: PostgresValue) throws { try self.init(postgresInteger: value) }
}

extension Int64: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .int8 }
    package static var postgresArrayType: PostgresType { .int8Array }
    package func encodedForPostgres() -> PostgresParameter { .text(String(self)) }
    package init(postgres value: PostgresValue) throws { try self.init(postgresInteger: value) }
}

extension Int32: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .int4 }
    package static var postgresArrayType: PostgresType { .int4Array }
    package func encodedForPostgres() -> PostgresParameter { .text(String(self)) }
    package init(postgres value: PostgresValue) throws { try self.init(postgresInteger: value) }
}

extension Int16: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .int2 }
    package static var postgresArrayType: PostgresType { .int2Array }
    package func encodedForPostgres() -> PostgresParameter { .text(String(self)) }
    package init(postgres value: PostgresValue) throws { try self.init(postgresInteger: value) }
}

extension Double: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .float8 }
    package static var postgresArrayType: PostgresType { .float8Array }

    /// Swift writes the shortest text that reads back the same, and Postgres understands its `inf` and `nan`.
    package func encodedForPostgres() -> PostgresParameter { .text("\(self)") }

    package init(postgres value: PostgresValue) throws {
        try value.require(.float8, .float4, .numeric, .int2, .int4, .int8)
        guard let number = Double(value.text) else { throw PostgresError.mismatch("it is not a number") }
        self = number
    }
}

/// A string is bound as type *unknown*, so that it serves for text, enums, inet and whatever else is written as text;
/// and any column can be read as one, in Postgres's text form.
extension String: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .unknown }
    package static var postgresArrayType: PostgresType { .textArray }
    package func encodedForPostgres() -> PostgresParameter { .text(self) }
    package init(postgres value: PostgresValue) { self = value.text }
}

extension UUID: PostgresCodable, PostgresArrayElement {
    package static var postgresType: PostgresType { .uuid }
    package static var postgresArrayType: PostgresType { .uuidArray }
    package func encodedForPostgres() -> PostgresParameter { .text(uuidString) }

    package init(postgres value: PostgresValue) throws {
        try value.require(.uuid, .text, .varchar)
        guard let uuid = UUID(uuidString: value.text) else { throw PostgresError.mismatch("it is not a UUID") }
        self = uuid
    }
}
