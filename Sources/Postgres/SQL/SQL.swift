/// A statement, or a piece of one, with its values kept apart from its text.
///
///     let sql: SQL = "SELECT id FROM sandbox WHERE organization_id = \(organization) AND state = \(state)"
///
/// Interpolated values become `$1`, `$2`, …, never text. Pieces compose: interpolating or appending an `SQL` renumbers.
///
///     var filter: SQL = "true"
///     if let state { filter.append(" AND state = \(state)") }
///     let page: SQL = "SELECT id FROM sandbox WHERE \(filter) ORDER BY id LIMIT \(limit)"
///
/// A string literal binds as type *unknown*, so that Postgres casts it to what the context asks for (enum, inet, text);
/// where there is no context, write the cast: `\(name)::text`. An `Int` binds as int8; use `Int32` for `int4` arguments
/// of functions.
package struct SQL: Sendable {
    enum Part: Sendable {
        case text(String)
        case value(any PostgresEncodable)
    }

    private(set) var parts: [Part] = []

    /// An empty piece.
    package init() {}

    /// Text as it stands: nothing in it is escaped. For SQL read from a file, such as a migration.
    package init(unescaped text: String) { parts = [.text(text)] }

    /// Nothing has been written yet.
    package var isEmpty: Bool { parts.isEmpty }

    /// Adds a piece at the end.
    package mutating func append(_ other: SQL) { parts += other.parts }

    /// Both, one after the other.
    package static func + (left: SQL, right: SQL) -> SQL {
        var sum = left
        sum.append(right)
        return sum
    }

    /// Adds a piece at the end.
    package static func += (left: inout SQL, right: SQL) { left.append(right) }

    fileprivate mutating func append(_ part: Part) { parts.append(part) }
}

extension SQL: ExpressibleByStringInterpolation {
    package init(stringLiteral text: String) { self.init(unescaped: text) }

    package init(stringInterpolation interpolation: StringInterpolation) { self = interpolation.sql }

    /// What may stand in `\( )`.
    package struct StringInterpolation: StringInterpolationProtocol, Sendable {
        fileprivate var sql = SQL()

        package init(literalCapacity: Int, interpolationCount: Int) {}

        package mutating func appendLiteral(_ text: String) {
            if !text.isEmpty { sql.append(.text(text)) }
        }

        /// Binds a value.
        package mutating func appendInterpolation(_ value: some PostgresEncodable) { sql.append(.value(value)) }

        /// Binds a value, or NULL. (Spelled out, or the compiler takes the optional for an oversight.)
        package mutating func appendInterpolation<Value: PostgresEncodable>(_ value: Value?) {
            sql.append(.value(value))
        }

        /// Binds a value as jsonb.
        package mutating func appendInterpolation<Value: Encodable & Sendable>(json value: Value) {
            sql.append(.value(JSON(value)))
        }

        /// Inserts another piece; its parameters are renumbered.
        package mutating func appendInterpolation(_ piece: SQL) { sql.append(piece) }

        /// Inserts a name of a table, column, channel or role, quoted.
        package mutating func appendInterpolation(identifier name: String) {
            sql.append(
                .text(
                    "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"")
                        + "\""
                )
            )
        }

        /// Inserts text as a quoted string literal, for statements that take no parameters (`CREATE ROLE … PASSWORD`).
        package mutating func appendInterpolation(literal text: String) {
            var quoted = " E'"
            for character in text.unicodeScalars {
                if character == "'" || character == "\\" { quoted.unicodeScalars.append(character) }
                quoted.unicodeScalars.append(character)
            }
            sql.append(.text(quoted + "'"))
        }

        /// Inserts text as SQL, as it stands. Never with anything that came from outside.
        package mutating func appendInterpolation(unescaped text: String) { sql.append(.text(text)) }
    }
}

extension Sequence<SQL> {
    /// The pieces with a separator between them: `filters.joined(separator: " AND ")`.
    package func joined(separator: SQL) -> SQL {
        var sum = SQL()
        for (index, piece) in enumerated() {
            if index > 0 { sum.append(separator) }
            sum.append(piece)
        }
        return sum
    }
}

extension SQL: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// The text with `$1`…; the values are never shown.
    package var description: String { text }

    package var debugDescription: String { text }

    package var customMirror: Mirror { Mirror(self, children: ["text": text]) }

    /// The text with numbered parameters.
    var text: String {
        var text = ""
        var count = 0
        for part in parts {
            switch part {
            case .text(let piece): text += piece
            case .value:
                count += 1
                text += "$\(count)"
            }
        }
        return text
    }
}
