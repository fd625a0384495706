package import FoundationEssentials

/// `[UInt8]` is bytea, not an array of numbers.
extension UInt8: PostgresArrayElement {
    package static var postgresArrayType: PostgresType { .bytea }

    package static func encodeArray(_ bytes: [UInt8]) -> PostgresParameter { .binary(bytes) }

    package static func decodeArray(_ value: PostgresValue) throws -> [UInt8] {
        try value.require(.bytea)
        return try bytes(hexadecimal: value.text.utf8)
    }

    private static func bytes(hexadecimal text: String.UTF8View) throws -> [UInt8] {
        let digits = text.dropFirst(2)
        guard text.starts(with: "\\x".utf8), digits.count.isMultiple(of: 2) else {
            throw PostgresError.mismatch("it is not in hexadecimal form; has bytea_output been changed?")
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(digits.count / 2)
        var high: UInt8?
        for digit in digits {
            guard let nibble = nibble(digit) else { throw PostgresError.mismatch("it has a bad hexadecimal digit") }
            if let first = high {
                bytes.append(first << 4 | nibble)
                high = nil
            } else {
                high = nibble
            }
        }
        return bytes
    }

    private static func nibble(_ digit: UInt8) -> UInt8? {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

extension Data: PostgresCodable {
    package static var postgresType: PostgresType { .bytea }
    package func encodedForPostgres() -> PostgresParameter { .binary([UInt8](self)) }
    package init(postgres value: PostgresValue) throws { self.init(try [UInt8](postgres: value)) }
}
