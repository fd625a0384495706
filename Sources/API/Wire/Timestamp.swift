import FoundationEssentials

/// Points in time on the wire.
enum Timestamp {
    private static let style = Date.ISO8601FormatStyle(includingFractionalSeconds: true)

    /// ISO 8601 in UTC with milliseconds: `2026-01-01T00:00:00.000Z`.
    static func text(_ date: Date) -> String { date.formatted(style) }

    /// Reads ISO 8601 as clients write it: fraction or not, `Z`, an offset with or without colon, or none, which is UTC.
    static func date(_ text: String) -> Date? {
        guard
            let match = text.wholeMatch(
                of: /(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:?\d\d)?/
            )
        else { return nil }
        let (_, year, month, day, hour, minute, second, fraction, offset) = match.output
        var components = DateComponents()
        components.year = Int(year)
        components.month = Int(month)
        components.day = Int(day)
        components.hour = Int(hour)
        components.minute = Int(minute)
        components.second = second.flatMap { Int($0) } ?? 0
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = .gmt
        guard components.isValidDate(in: calendar), let date = calendar.date(from: components) else { return nil }
        let parts = fraction.flatMap { Double("0.\($0)") } ?? 0
        return date.addingTimeInterval(parts - Double(offset.map(offsetSeconds) ?? 0))
    }

    private static func offsetSeconds(_ text: Substring) -> Int {
        guard text != "Z" else { return 0 }
        let digits = text.filter(\.isNumber)
        let seconds = (Int(digits.prefix(2)) ?? 0) * 3600 + (Int(digits.suffix(2)) ?? 0) * 60
        return text.hasPrefix("-") ? -seconds : seconds
    }
}
