import CLibPQ
import Glibc

/// What a statement answered: rows, and the number of rows it touched. Lives as long as any `Row` of it.
///
/// `@unchecked Sendable`: a finished PGresult is never written again, and libpq's documentation lets any thread read it;
/// the only write is `PQclear`, when no reference is left.
package final class PostgresResult: @unchecked Sendable {
    private let handle: OpaquePointer

    /// Takes ownership of a PGresult.
    init(owning handle: OpaquePointer) { self.handle = handle }

    deinit { PQclear(handle) }

    var status: ExecStatusType { PQresultStatus(handle) }

    /// The rows, in the server's order.
    package var rows: [Row] { (0..<PQntuples(handle)).map { Row(result: self, index: $0) } }

    /// How many rows INSERT, UPDATE, DELETE, MERGE or SELECT touched; 0 for other commands.
    package var affectedRows: Int { Int(String(cString: PQcmdTuples(handle))) ?? 0 }

    /// The command that was done, such as `INSERT 0 1`; for COMMIT of a failed transaction it is `ROLLBACK`.
    package var commandTag: String { String(cString: PQcmdStatus(handle)) }

    /// The names of the columns.
    package var columns: [String] { (0..<PQnfields(handle)).map { String(cString: PQfname(handle, $0)) } }

    var columnCount: Int32 { PQnfields(handle) }

    func columnName(_ column: Int32) -> String { String(cString: PQfname(handle, column)) }

    /// The first column of this name.
    func column(named name: String) -> Int32? {
        name.withCString { wanted in
            (0..<PQnfields(handle)).first { strcmp(PQfname(handle, $0), wanted) == 0 }
        }
    }

    func type(_ column: Int32) -> PostgresType { PostgresType(rawValue: PQftype(handle, column)) }

    /// The value, or nil for NULL.
    func value(row: Int32, column: Int32) -> PostgresValue? {
        guard PQgetisnull(handle, row, column) == 0, let start = PQgetvalue(handle, row, column) else { return nil }
        let bytes = UnsafeRawBufferPointer(start: start, count: Int(PQgetlength(handle, row, column)))
        return PostgresValue(type: type(column), text: String(decoding: bytes, as: UTF8.self))
    }

    func errorField(_ field: Character) -> String? {
        PQresultErrorField(handle, Int32(field.asciiValue!)).map { String(cString: $0) }
    }

    var errorMessage: String { String(cString: PQresultErrorMessage(handle)) }
}
