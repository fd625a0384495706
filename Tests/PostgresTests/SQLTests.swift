import Foundation
import Postgres
import Testing

@Suite struct SQLTests {
    @Test func valuesBecomeNumberedParameters() {
        let sql: SQL = "SELECT * FROM t WHERE a = \(1) AND b = \("x'; DROP TABLE t")"
        #expect(sql.description == "SELECT * FROM t WHERE a = $1 AND b = $2")
        #expect(!String(reflecting: sql).contains("DROP"))
    }

    @Test func piecesRenumberWhenComposed() {
        var filter: SQL = "a = \(1)"
        filter.append(" AND b = \(2)")
        filter += " AND c = \(3)"
        let sql: SQL = "SELECT \(0) WHERE \(filter) LIMIT \(4)"
        #expect(sql.description == "SELECT $1 WHERE a = $2 AND b = $3 AND c = $4 LIMIT $5")
        let joined = ["x = \(1)", "y = \(2)"].joined(separator: " OR " as SQL)
        #expect(joined.description == "x = $1 OR y = $2")
    }

    @Test func identifiersAndLiteralsAreQuoted() async throws {
        let sql: SQL = "SELECT 1 AS \(identifier: "we\"ird")"
        #expect(sql.description == "SELECT 1 AS \"we\"\"ird\"")
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let text = "it's \\ a 'trap'; --"
                let row = try #require(
                    try await connection.queryFirst("SELECT \(literal: text) AS \(identifier: "we\"ird")")
                )
                #expect(try row["we\"ird"] == text)
            }
        }
    }

    @Test func boundValuesArriveAsValues() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                try await connection.execute("CREATE TABLE t (id int8, word text)")
                let hostile = "'); DROP TABLE t; --"
                #expect(
                    try await connection.execute("INSERT INTO t VALUES (\(1), \(hostile)), (\(2), \(String?.none))")
                        == 2
                )
                let rows = try await connection.query("SELECT word FROM t WHERE id = ANY(\([1, 2])) ORDER BY id")
                #expect(try rows.map { try $0.decode("word", as: String?.self) } == [hostile, nil])
            }
        }
    }

    @Test func tooManyParametersAreRefused() async throws {
        var sql: SQL = "SELECT \(0)"
        for number in 1...65_535 { sql.append(", \(number)") }
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let error = try await postgresError { try await connection.execute(sql) }
                #expect(error?.code == .encodingFailed)
                #expect(error?.message.contains("65535") == true)
            }
        }
    }
}
