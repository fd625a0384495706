/// What libpq says when no connection comes about. It gives no SQLSTATE apart from the text, so the text is asked for in
/// the verbose form `…: FATAL:  28P01: password authentication failed…` and taken apart here.
struct ConnectionRefusal {
    let code: PostgresError.Code
    let message: String
    let retry: RetryAdvice

    init(_ text: String) {
        let lines = text.split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("LOCATION:") }
        message = lines.joined(separator: "\n").onOneLine
        guard let state = Self.sqlState(in: message) else {
            code = .connectionFailed
            retry = .retry(after: .seconds(1))
            return
        }
        code = PostgresError.Code(rawValue: state)
        retry = Self.isFinal(state) ? .never : .retry(after: .seconds(1))
    }

    /// A wrong password, role, database or right to connect stays wrong; all else (starting up, too many connections) passes.
    private static func isFinal(_ state: String) -> Bool {
        state.hasPrefix("28") || state.hasPrefix("3D") || state.hasPrefix("42")
    }

    /// Five capitals and digits between `:  ` and `: `.
    private static func sqlState(in message: String) -> String? {
        message.split(separator: ":").lazy
            .filter { $0.hasPrefix("  ") && $0.utf8.count == 7 }
            .map { String($0.dropFirst(2)) }
            .first { $0.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) } }
    }
}
