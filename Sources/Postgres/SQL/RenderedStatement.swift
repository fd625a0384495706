/// A statement as it goes to libpq: text, and values already encoded.
struct RenderedStatement: Sendable {
    /// The protocol counts parameters in 16 bits.
    static let parameterLimit = 65_535

    /// What a prepared statement is prepared for. The same text with other types is another statement.
    struct Shape: Hashable, Sendable {
        let text: String
        let types: [UInt32]
    }

    let shape: Shape
    let parameters: [PostgresParameter]

    /// Encodes the values. Throws `encoding_failed` if one cannot be sent.
    init(_ sql: SQL) throws {
        var types: [UInt32] = []
        var parameters: [PostgresParameter] = []
        for case .value(let value) in sql.parts {
            types.append(type(of: value).postgresType.oid)
            parameters.append(try value.encodedForPostgres().checked(number: parameters.count + 1))
        }
        guard parameters.count <= Self.parameterLimit else {
            throw PostgresError(
                .encodingFailed,
                "statement has \(parameters.count) parameters, the limit is \(Self.parameterLimit); bind an array instead"
            )
        }
        shape = Shape(text: try sql.text.rejectingNUL("the SQL text"), types: types)
        self.parameters = parameters
    }

    /// Lays the values out for libpq: one block of memory, pointers into it.
    func withLibPQParameters<Result>(
        _ body: (
            _ values: UnsafePointer<UnsafePointer<CChar>?>?, _ lengths: UnsafePointer<Int32>?,
            _ formats: UnsafePointer<Int32>?
        ) throws -> Result
    ) rethrows -> Result {
        guard !parameters.isEmpty else { return try body(nil, nil, nil) }
        var block: [UInt8] = []
        var offsets: [Int?] = []
        var lengths: [Int32] = []
        var formats: [Int32] = []
        for parameter in parameters {
            let start = block.count
            formats.append(parameter.append(to: &block))
            offsets.append(parameter.isNull ? nil : start)
            lengths.append(Int32(block.count - start))
            block.append(0)  // text needs it, and it keeps the block from being empty
        }
        return try block.withUnsafeBytes { bytes in
            let base = bytes.baseAddress!.assumingMemoryBound(to: CChar.self)
            let values = offsets.map { offset in offset.map { base + $0 } }
            return try body(values, lengths, formats)
        }
    }
}

extension String {
    /// C strings end at NUL: sending one would silently cut the text, so it is refused.
    func rejectingNUL(_ what: String) throws -> String {
        guard !utf8.contains(0) else {
            throw PostgresError(
                .encodingFailed,
                "\(what) holds a NUL byte, which Postgres text cannot; bind it as bytes, or remove it"
            )
        }
        return self
    }
}
