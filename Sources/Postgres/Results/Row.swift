/// One row of a result.
package struct Row: Sendable {
    let result: PostgresResult
    let index: Int32

    /// The names of the columns.
    package var columns: [String] { result.columns }

    /// Reads a column as the type that the context asks for: `let id: UUID = try row["id"]`. See `decode`.
    package subscript<Value: PostgresDecodable>(column: String) -> Value {
        get throws { try decode(column, as: Value.self) }
    }

    /// Reads a column. Throws `decoding_failed`, naming the column, its type and the type asked for, if there is no such
    /// column, if it is NULL and `Value` is not optional, or if the value does not fit. Of equal names the first counts.
    package func decode<Value: PostgresDecodable>(_ column: String, as type: Value.Type = Value.self) throws -> Value {
        guard let number = result.column(named: column) else {
            throw failure(column, "there is no column \"\(column)\"; the result has \(columns)")
        }
        return try decode(at: Int(number), as: type)
    }

    /// Reads a column by its place, from 0. Throws as `decode(_:as:)` does.
    package func decode<Value: PostgresDecodable>(at place: Int, as type: Value.Type = Value.self) throws -> Value {
        guard let column = Int32(exactly: place), column >= 0, column < result.columnCount else {
            throw failure("\(place)", "there is no column \(place); the result has \(result.columnCount)")
        }
        do {
            guard let value = result.value(row: index, column: column) else { return try Value.fromPostgresNull() }
            return try Value(postgres: value)
        } catch let error as PostgresError where error.code == .decodingFailed {
            let name = result.columnName(column)
            let kind = "column \"\(name)\" of type \(result.type(column))"
            throw failure(name, "\(kind) cannot be read as \(type): \(error.message)")
        }
    }

    private func failure(_ column: String, _ message: String) -> PostgresError {
        var error = PostgresError(.decodingFailed, message)
        error.column = column
        return error
    }
}
