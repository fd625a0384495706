/// The parameters of a query string, form-encoded: `+` is a space, as the SDK and signed URLs send it.
/// The first of equal names counts.
package struct QueryParameters: Sendable, Equatable {
    private var values: [String: String] = [:]

    package init(_ query: String?) {
        guard let query else { return }
        for pair in query.split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = decodePercent(parts[0], plusIsSpace: true)
            guard values[name] == nil else { continue }
            values[name] = parts.count == 2 ? decodePercent(parts[1], plusIsSpace: true) : ""
        }
    }

    package subscript(_ name: String) -> String? { values[name] }

    /// A parameter that must be there and not be empty.
    package func required(_ name: String) throws -> String {
        guard let value = values[name], !value.isEmpty else {
            throw ToolboxError.badRequest("query parameter '\(name)' is missing or empty")
        }
        return value
    }

    /// `true`, `false` or absent (false); anything else is an error.
    package func flag(_ name: String) throws -> Bool {
        switch values[name] {
        case nil, "", "false", "0": return false
        case "true", "1": return true
        case .some(let other):
            throw ToolboxError.badRequest("query parameter '\(name)' is '\(other)', not true or false")
        }
    }

    /// A whole number within a range, or nil if absent.
    package func number(_ name: String, in range: ClosedRange<Int>) throws -> Int? {
        guard let text = values[name], !text.isEmpty else { return nil }
        guard let number = Int(text), range.contains(number) else {
            throw ToolboxError.badRequest("query parameter '\(name)' is '\(text)', not a whole number in \(range)")
        }
        return number
    }
}

/// Decodes `%XX`; a `%` that is not followed by two hexadecimal digits stays as it is. Bytes that are no UTF-8 are replaced.
package func decodePercent(_ text: some StringProtocol, plusIsSpace: Bool) -> String {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        if byte == UInt8(ascii: "%"), rest.count >= 2, let high = hexValue(rest[rest.startIndex]),
            let low = hexValue(rest[rest.startIndex + 1])
        {
            bytes.append(high << 4 | low)
            rest = rest.dropFirst(2)
        } else {
            bytes.append(plusIsSpace && byte == UInt8(ascii: "+") ? UInt8(ascii: " ") : byte)
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}

private func hexValue(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
}
