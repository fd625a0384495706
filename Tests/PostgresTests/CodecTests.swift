import Foundation
import Postgres
import Testing

@Suite struct CodecTests {
    private enum Mood: String, PostgresCodable, PostgresArrayElement { case calm, wild = "very wild" }

    private struct Shape: Codable, Sendable, Equatable {
        var name: String
        var sides: Int?
        var at: Date
    }

    private func roundTrip<Value: PostgresCodable & Equatable>(
        _ connection: PostgresConnection,
        _ values: [Value],
        as type: String
    ) async throws {
        for value in values {
            let row = try await connection.queryFirst("SELECT \(value)::\(unescaped: type) AS v")
            let back: Value = try #require(row)["v"]
            #expect(back == value)
        }
        let row = try await connection.queryFirst("SELECT \(Value?.none)::\(unescaped: type) AS v")
        let null: Value? = try #require(row)["v"]
        #expect(null == nil)
    }

    @Test func everyTypeComesBackAsItWentAndNullAsNil() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                try await roundTrip(connection, [true, false], as: "bool")
                try await roundTrip(connection, [Int.min, -1, 0, Int.max], as: "int8")
                try await roundTrip(connection, [Int64.min, Int64.max], as: "int8")
                try await roundTrip(connection, [Int32.min, Int32.max], as: "int4")
                try await roundTrip(connection, [Int16.min, Int16.max], as: "int2")
                try await roundTrip(
                    connection,
                    [0, 0.1, -1e300, .leastNonzeroMagnitude, .infinity, -.infinity, .pi],
                    as: "float8"
                )
                try await roundTrip(
                    connection,
                    ["", "'quoted' \"and\" \\back", "Ä Ω 語 👩‍👩‍👧 e\u{301}", "$1 \n\t NULL"],
                    as: "text"
                )
                try await roundTrip(connection, [UUID(), UUID()], as: "uuid")
                try await roundTrip(connection, [[], [0], Array(0...255)] as [[UInt8]], as: "bytea")
                try await roundTrip(connection, [Data(), Data([0, 255, 10])], as: "bytea")
                try await roundTrip(connection, [Mood.calm, .wild], as: "text")
                try await roundTrip(connection, [[.calm, .wild]] as [[Mood]], as: "text[]")
                try await roundTrip(
                    connection,
                    [[], [""], ["NULL", "a,b", "{}", "\"\\", " ", "語"]] as [[String]],
                    as: "text[]"
                )
                try await roundTrip(connection, [[], [UUID(), UUID()]] as [[UUID]], as: "uuid[]")
                try await roundTrip(connection, [[], [Int.min, 0, Int.max]] as [[Int]], as: "int8[]")
                try await roundTrip(connection, [[true, false]] as [[Bool]], as: "bool[]")
                try await roundTrip(connection, [[0.5, -.infinity]] as [[Double]], as: "float8[]")
                try await roundTrip(
                    connection,
                    [.zero, .microseconds(-1), .milliseconds(-1500), .seconds(86_400 * 400), .seconds(-3661)]
                        as [Duration],
                    as: "interval"
                )
                try await roundTrip(connection, [JSONText("{\"a\": 1}")], as: "jsonb")
                let shape = Shape(name: "ö\"", sides: nil, at: Date(timeIntervalSince1970: 1_700_000_000))
                try await roundTrip(connection, [JSON(shape)], as: "jsonb")
            }
        }
    }

    @Test func datesAreExactToTheMicrosecond() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let texts = [
                    "2000-01-01 00:00:00+00", "1970-01-01 00:00:00.000001+00", "2024-02-29 23:59:59.999999+00",
                    "1900-03-01 12:00:00.5+00", "0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00",
                ]
                for text in texts {
                    let row = try #require(try await connection.queryFirst("SELECT \(text)::timestamptz AS t"))
                    let date: Date = try row["t"]
                    let again = try #require(
                        try await connection.queryFirst(
                            "SELECT \(date)::text AS t, extract(epoch FROM \(date))::float8 AS e"
                        )
                    )
                    #expect(try again.decode("t", as: String.self) == text)
                    #expect(abs(try again.decode("e", as: Double.self) - date.timeIntervalSince1970) < 0.000_02)
                }
                try await connection.execute("SET TimeZone = 'Asia/Kolkata'")
                let row = try #require(
                    try await connection.queryFirst("SELECT '2024-01-01 05:30:00+05:30'::timestamptz AS t")
                )
                #expect(try row.decode("t", as: Date.self) == Date(timeIntervalSince1970: 1_704_067_200))
            }
        }
    }

    @Test(arguments: ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC"])
    func datesThatFoundationCannotHoldFailToDecode(text: String) async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let row = try #require(try await connection.queryFirst("SELECT \(text)::timestamptz AS t"))
                let error = try await postgresError { _ = try row.decode("t", as: Date.self) }
                #expect(error?.code == .decodingFailed)
                #expect(error?.message.contains("\"t\" of type timestamptz") == true)
            }
        }
    }

    @Test func aNULByteInTextIsRefusedBeforeItIsSent() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                for sql in ["SELECT \("a\0b")", "SELECT \(["a\0b"])", SQL(unescaped: "SELECT 1\0; DROP TABLE x")] {
                    let error = try await postgresError { try await connection.execute(sql) }
                    #expect(error?.code == .encodingFailed)
                    #expect(error?.message.contains("NUL byte") == true)
                    #expect(error?.retry == .never)
                }
                #expect(connection.isOpen)
            }
        }
    }

    @Test func decodingErrorsNameColumnTypeAndTarget() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                let row = try #require(
                    try await connection.queryFirst(
                        "SELECT 70000 AS big, 'x'::text AS word, NULL::int4 AS none, ARRAY[[1],[2]] AS deep"
                    )
                )
                let cases: [(() throws -> Void, [String])] = [
                    ({ _ = try row.decode("big", as: Int16.self) }, ["\"big\"", "int4", "Int16"]),
                    ({ _ = try row.decode("word", as: UUID.self) }, ["\"word\"", "text", "UUID"]),
                    ({ _ = try row.decode("word", as: Int.self) }, ["\"word\"", "text", "Int"]),
                    ({ _ = try row.decode("none", as: Int.self) }, ["\"none\"", "NULL"]),
                    ({ _ = try row.decode("deep", as: [Int].self) }, ["\"deep\"", "dimension"]),
                    ({ _ = try row.decode("gone", as: Int.self) }, ["\"gone\"", "big"]),
                    ({ _ = try row.decode("word", as: Mood.self) }, ["\"word\"", "Mood"]),
                    ({ _ = try row.decode(at: 4, as: Int.self) }, ["4"]),
                ]
                for (attempt, words) in cases {
                    let error = try await postgresError(attempt)
                    #expect(error?.code == .decodingFailed)
                    for word in words {
                        #expect(error?.description.contains(word) == true, "\(word) in \(String(describing: error))")
                    }
                    #expect(error?.description.contains("70000") == false)
                }
            }
        }
    }

    @Test func stringsServeForEnumsAndAddressesAndNumericsReadAsNumbers() async throws {
        try await TestDatabase.with { database in
            try await database.withConnection { connection in
                try await connection.execute(
                    script: "CREATE TYPE mood AS ENUM ('calm', 'very wild'); CREATE TABLE t (m mood, a inet)"
                )
                try await connection.execute("INSERT INTO t VALUES (\(Mood.wild), \("10.0.0.1"))")
                let row = try #require(
                    try await connection.queryFirst(
                        "SELECT m, a, (SELECT sum(x) FROM (VALUES (1::int8), (2)) AS v(x)) AS s FROM t WHERE m = \(Mood.wild)"
                    )
                )
                #expect(try row["m"] == Mood.wild)
                #expect(try row["a"] == "10.0.0.1")
                #expect(try row["s"] == 3)
            }
        }
    }
}
