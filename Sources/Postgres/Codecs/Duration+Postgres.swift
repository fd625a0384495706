/// `Duration` is interval, to the microsecond (finer parts are rounded towards zero). A day is read as 24 hours; an
/// interval with months or years has no fixed length and fails to decode.
extension Duration: PostgresCodable {
    package static var postgresType: PostgresType { .interval }

    package func encodedForPostgres() -> PostgresParameter {
        let microseconds = components.attoseconds / 1_000_000_000_000
        return .text("\(components.seconds) seconds \(microseconds) microseconds")
    }

    package init(postgres value: PostgresValue) throws {
        try value.require(.interval)
        var scanner = TextScanner(value.text)
        self = .microseconds(try scanner.microsecondsOfInterval())
    }
}

extension TextScanner {
    /// Reads `P1DT-2H3M4.5S`.
    fileprivate mutating func microsecondsOfInterval() throws -> Int64 {
        try expect("P")
        var total: Int64 = 0
        var inTime = false
        while !isAtEnd {
            if skip("T") {
                inTime = true
                continue
            }
            let isNegative = skip("-")
            let amount = Int64(try digits()) * 1_000_000 + Int64(try fractionInMicroseconds())
            let (part, overflow) = amount.multipliedReportingOverflow(by: try secondsPerUnit(inTime: inTime))
            guard !overflow else { throw PostgresError.mismatch("the interval is too long") }
            total += isNegative ? -part : part
        }
        return total
    }

    private mutating func secondsPerUnit(inTime: Bool) throws -> Int64 {
        switch (next(), inTime) {
        case (UInt8(ascii: "D"), false): 86_400
        case (UInt8(ascii: "H"), true): 3600
        case (UInt8(ascii: "M"), true): 60
        case (UInt8(ascii: "S"), true): 1
        default: throw PostgresError.mismatch("months and years have no fixed length")
        }
    }
}
