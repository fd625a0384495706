/// A type of Postgres by its number in `pg_type`. The numbers of built-in types are fixed forever.
package struct PostgresType: RawRepresentable, Hashable, Sendable {
    package let rawValue: UInt32

    package init(rawValue: UInt32) { self.rawValue = rawValue }

    private init(_ oid: UInt32) { rawValue = oid }

    /// The number in `pg_type`.
    package var oid: UInt32 { rawValue }

    /// Postgres decides from the context.
    package static let unknown = Self(0)
    package static let bool = Self(16)
    package static let bytea = Self(17)
    package static let int8 = Self(20)
    package static let int2 = Self(21)
    package static let int4 = Self(23)
    package static let text = Self(25)
    package static let oid = Self(26)
    package static let json = Self(114)
    package static let float4 = Self(700)
    package static let float8 = Self(701)
    package static let varchar = Self(1043)
    package static let date = Self(1082)
    package static let timestamp = Self(1114)
    package static let timestamptz = Self(1184)
    package static let interval = Self(1186)
    package static let numeric = Self(1700)
    package static let uuid = Self(2950)
    package static let jsonb = Self(3802)
    package static let boolArray = Self(1000)
    package static let int2Array = Self(1005)
    package static let int4Array = Self(1007)
    package static let textArray = Self(1009)
    package static let varcharArray = Self(1015)
    package static let int8Array = Self(1016)
    package static let float4Array = Self(1021)
    package static let float8Array = Self(1022)
    package static let numericArray = Self(1231)
    package static let uuidArray = Self(2951)

    /// The type of an array's elements, where it is built in; otherwise unknown.
    var element: PostgresType {
        switch self {
        case .boolArray: .bool
        case .int2Array: .int2
        case .int4Array: .int4
        case .int8Array: .int8
        case .float4Array: .float4
        case .float8Array: .float8
        case .numericArray: .numeric
        case .uuidArray: .uuid
        case .textArray: .text
        case .varcharArray: .varchar
        default: .unknown
        }
    }
}

extension PostgresType: CustomStringConvertible {
    private static let names: [PostgresType: String] = [
        .unknown: "unknown", .bool: "bool", .bytea: "bytea", .int8: "int8", .int2: "int2", .int4: "int4", .text: "text",
        .oid: "oid", .json: "json", .float4: "float4", .float8: "float8", .varchar: "varchar", .date: "date",
        .timestamp: "timestamp", .timestamptz: "timestamptz", .interval: "interval", .numeric: "numeric", .uuid: "uuid",
        .jsonb: "jsonb", .boolArray: "bool[]", .int2Array: "int2[]", .int4Array: "int4[]", .textArray: "text[]",
        .varcharArray: "varchar[]", .int8Array: "int8[]", .float4Array: "float4[]", .float8Array: "float8[]",
        .numericArray: "numeric[]", .uuidArray: "uuid[]",
    ]

    package var description: String { Self.names[self] ?? "type \(rawValue)" }
}
