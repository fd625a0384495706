/// A query string, split before it is decoded. Keys may repeat.
struct Query: Sendable {
    private var values: [String: [String]] = [:]

    /// Throws 400 where an escape is broken.
    init(_ text: String?) throws {
        for pair in (text ?? "").split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let value = parts.count == 2 ? try Self.decode(parts[1]) : ""
            values[try Self.decode(parts[0]), default: []].append(value)
        }
    }

    private static func decode(_ text: Substring) throws -> String {
        try String(text.replacing("+", with: " ")).percentDecoded()
    }

    /// The first value of the key.
    subscript(key: String) -> String? { values[key]?.first }

    /// All values of the key; nil if there is none.
    func all(_ key: String) -> [String]? { values[key] }
}

extension String {
    /// Undoes percent-encoding. Throws 400 where it is broken, is not UTF-8, or hides a NUL.
    func percentDecoded() throws -> String {
        guard utf8.contains(UInt8(ascii: "%")) else { return self }
        var bytes: [UInt8] = []
        var rest = utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let high = rest.popFirst()?.hexDigit, let low = rest.popFirst()?.hexDigit else { throw brokenEscape }
            bytes.append(high << 4 | low)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else { throw brokenEscape }
        guard !bytes.contains(0) else { throw APIError.badRequest("the address holds a NUL character") }
        return text
    }

    private var brokenEscape: APIError { .badRequest("'\(shortened)' is not percent-encoded UTF-8") }
}

extension UInt8 {
    fileprivate var hexDigit: UInt8? { Character(UnicodeScalar(self)).hexDigitValue.map { UInt8($0) } }
}
