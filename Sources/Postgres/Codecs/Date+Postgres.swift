package import FoundationEssentials

/// `Date` is timestamptz, to the microsecond. `infinity` and years before Christ have no `Date` and fail to decode;
/// `timestamp` without time zone is refused, because it names no instant.
extension Date: PostgresCodable {
    package static var postgresType: PostgresType { .timestamptz }

    /// From 2000-01-01, where Postgres begins, to 2001-01-01, where Foundation does.
    private static let microsecondsBetweenEpochs: Int64 = 366 * 86_400 * 1_000_000

    package func encodedForPostgres() throws -> PostgresParameter {
        let sinceReference = (timeIntervalSinceReferenceDate * 1_000_000).rounded()
        guard let microseconds = Int64(exactly: sinceReference),
            case let (value, overflow) = microseconds.addingReportingOverflow(Self.microsecondsBetweenEpochs),
            !overflow,
            value != .max, value != .min  // these two are infinity and -infinity
        else { throw PostgresError(.encodingFailed, "the date is outside of what timestamptz can hold") }
        return .binary(withUnsafeBytes(of: value.bigEndian, Array.init))
    }

    package init(postgres value: PostgresValue) throws {
        try value.require(.timestamptz)
        guard !value.text.hasSuffix("infinity") else { throw PostgresError.mismatch("infinity is no date") }
        guard !value.text.hasSuffix("BC") else { throw PostgresError.mismatch("dates before Christ are not read") }
        var scanner = TextScanner(value.text)
        self.init(timeIntervalSinceReferenceDate: Double(try scanner.microsecondsSinceReferenceDate()) / 1_000_000)
    }
}

extension TextScanner {
    /// Reads `2024-02-29 23:59:58.123456+00`.
    fileprivate mutating func microsecondsSinceReferenceDate() throws -> Int {
        let year = try digits()
        try expect("-")
        let month = try digits()
        try expect("-")
        let day = try digits()
        try expect(" ")
        let seconds = try clock()
        let microseconds = try fractionInMicroseconds()
        let offset = try zoneOffset()
        guard isAtEnd else { throw PostgresError.mismatch("the timestamp's text has an unexpected end") }
        let days = daysSinceReferenceDate(year: year, month: month, day: day)
        return (days * 86_400 + seconds - offset) * 1_000_000 + microseconds
    }

    private mutating func clock() throws -> Int {
        let hours = try digits()
        try expect(":")
        let minutes = try digits()
        try expect(":")
        return hours * 3600 + minutes * 60 + (try digits())
    }

    private mutating func zoneOffset() throws -> Int {
        let isWest = skip("-")
        if !isWest { try expect("+") }
        var seconds = try digits() * 3600
        if skip(":") { seconds += try digits() * 60 }
        if skip(":") { seconds += try digits() }
        return isWest ? -seconds : seconds
    }
}

/// Days from 2001-01-01 in the Gregorian calendar, by counting in years that begin in March, so that the leap day is last.
private func daysSinceReferenceDate(year: Int, month: Int, day: Int) -> Int {
    let year = month <= 2 ? year - 1 : year
    let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
    return year * 365 + year / 4 - year / 100 + year / 400 + dayOfYear - 730_791
}
