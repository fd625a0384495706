import FoundationEssentials

/// A point in the engine's time, as events carry it.
package struct EngineTime: Sendable, Hashable, Comparable {
    /// Since the Unix epoch.
    package let nanoseconds: Int64

    package init(nanoseconds: Int64) {
        self.nanoseconds = nanoseconds
    }

    /// The machine's time; the engine is on the same machine.
    package static func now() -> EngineTime {
        EngineTime(nanoseconds: Int64(Date().timeIntervalSince1970 * 1_000_000) * 1000)
    }

    package static func < (left: EngineTime, right: EngineTime) -> Bool { left.nanoseconds < right.nanoseconds }

    /// `seconds.nanoseconds`, as the engine's `since` wants it.
    var parameter: String {
        let (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
        let digits = String(rest)
        return "\(seconds)." + String(repeating: "0", count: 9 - digits.count) + digits
    }
}

/// Reads the engine's RFC 3339 times; nil for its "never" (year 1) and for what is no time.
func engineDate(_ text: String?) -> Date? {
    guard let text, !text.hasPrefix("0001-") else { return nil }
    let (whole, fraction, zone) = splitTimestamp(text)
    guard let date = try? Date(whole + zone, strategy: .iso8601) else { return nil }
    return date.addingTimeInterval(Double("0." + fraction) ?? 0)
}

private func splitTimestamp(_ text: String) -> (whole: String, fraction: String, zone: String) {
    guard let dot = text.firstIndex(of: ".") else { return (text, "0", "") }
    let rest = text[text.index(after: dot)...]
    let fraction = rest.prefix { $0.isNumber }
    return (String(text[..<dot]), String(fraction), String(rest.dropFirst(fraction.count)))
}
