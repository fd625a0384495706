/// A type of which Postgres has arrays. The defaults send and read the one-dimensional text form `{a,"b c"}`.
package protocol PostgresArrayElement: Sendable {
    /// The type of an array of these.
    static var postgresArrayType: PostgresType { get }
    static func encodeArray(_ elements: [Self]) throws -> PostgresParameter
    static func decodeArray(_ value: PostgresValue) throws -> [Self]
}

extension Array: PostgresEncodable where Element: PostgresArrayElement {
    package static var postgresType: PostgresType { Element.postgresArrayType }
    package func encodedForPostgres() throws -> PostgresParameter { try Element.encodeArray(self) }
}

extension Array: PostgresDecodable where Element: PostgresArrayElement {
    package init(postgres value: PostgresValue) throws { self = try Element.decodeArray(value) }
}

extension RawRepresentable where Self: PostgresArrayElement, RawValue: PostgresArrayElement {
    package static var postgresArrayType: PostgresType { RawValue.postgresArrayType }
}

extension PostgresArrayElement where Self: PostgresEncodable {
    package static func encodeArray(_ elements: [Self]) throws -> PostgresParameter {
        var literal = "{"
        for (index, element) in elements.enumerated() {
            if index > 0 { literal += "," }
            guard case .text(let text) = try element.encodedForPostgres() else {
                throw PostgresError(
                    .encodingFailed,
                    "element \(index) of [\(Self.self)] has no text form to put in an array"
                )
            }
            literal.appendArrayElement(text)
        }
        return .text(literal + "}")
    }
}

extension PostgresArrayElement where Self: PostgresDecodable {
    package static func decodeArray(_ value: PostgresValue) throws -> [Self] {
        var scanner = TextScanner(value.text)
        let element = value.type.element
        return try scanner.arrayElements().map { text in
            guard let text else { return try Self.fromPostgresNull() }
            return try Self(postgres: PostgresValue(type: element, text: text))
        }
    }
}

extension String {
    /// Always quoted: then neither `NULL`, nor the empty string, nor spaces are special.
    fileprivate mutating func appendArrayElement(_ text: String) {
        append("\"")
        for scalar in text.unicodeScalars {
            if scalar == "\"" || scalar == "\\" { append("\\") }
            unicodeScalars.append(scalar)
        }
        append("\"")
    }
}

extension TextScanner {
    /// Reads `{…}`; nil stands for NULL. Throws on nested arrays.
    fileprivate mutating func arrayElements() throws -> [String?] {
        if peek == UInt8(ascii: "[") { skip(through: UInt8(ascii: "=")) }  // `[0:1]={…}`: other lower bounds
        try expect("{")
        var elements: [String?] = []
        if skip("}") { return elements }
        repeat { elements.append(try arrayElement()) } while skip(",")
        try expect("}")
        return elements
    }

    private mutating func arrayElement() throws -> String? {
        if peek == UInt8(ascii: "{") { throw PostgresError.mismatch("the array has more than one dimension") }
        if skip("\"") { return try quotedElement() }
        let text = take { $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: "}") }
        return text == "NULL" ? nil : text
    }

    private mutating func quotedElement() throws -> String {
        var bytes: [UInt8] = []
        while var byte = next() {
            if byte == UInt8(ascii: "\"") { return String(decoding: bytes, as: UTF8.self) }
            if byte == UInt8(ascii: "\\") { byte = next() ?? 0 }
            bytes.append(byte)
        }
        throw PostgresError.mismatch("the array's text ends within a quoted element")
    }
}
