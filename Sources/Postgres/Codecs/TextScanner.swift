/// Reads Postgres's text forms from left to right.
struct TextScanner {
    private let bytes: [UInt8]
    private var position = 0

    init(_ text: String) { bytes = Array(text.utf8) }

    var isAtEnd: Bool { position == bytes.count }
    var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    mutating func next() -> UInt8? {
        defer { position += peek == nil ? 0 : 1 }
        return peek
    }

    /// Steps over the byte if it is next.
    mutating func skip(_ character: Unicode.Scalar) -> Bool {
        guard peek == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    mutating func skip(through byte: UInt8) {
        while let passed = next(), passed != byte {}
    }

    mutating func expect(_ character: Unicode.Scalar) throws {
        guard skip(character) else { throw PostgresError.mismatch("'\(character)' was expected at byte \(position)") }
    }

    mutating func take(while matches: (UInt8) -> Bool) -> String {
        let start = position
        while let byte = peek, matches(byte) { position += 1 }
        return String(decoding: bytes[start..<position], as: UTF8.self)
    }

    /// One or more digits.
    mutating func digits() throws -> Int {
        let text = take { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        guard let number = Int(text) else { throw PostgresError.mismatch("a number was expected at byte \(position)") }
        return number
    }

    /// `.123456` as microseconds; 0 if there is no point.
    mutating func fractionInMicroseconds() throws -> Int {
        guard skip(".") else { return 0 }
        let start = position
        let number = try digits()
        let length = position - start
        guard length <= 6 else { throw PostgresError.mismatch("more than six decimals") }
        return (length..<6).reduce(number) { value, _ in value * 10 }
    }
}
