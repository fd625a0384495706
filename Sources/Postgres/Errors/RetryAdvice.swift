/// Whether doing the same again can help; decided where the cause of an error is known.
package enum RetryAdvice: Sendable, Hashable {
    /// The same statement fails again until somebody changes it, its values or the schema.
    case never
    /// The cause passes: try again, not sooner than this.
    case retry(after: Duration)

    /// The advice for an SQLSTATE: classes 08, 40, 53, 57 and 58 pass by themselves, as do a few single codes;
    /// all others (22, 23, 42, …) do not.
    package static func forSQLState(_ state: String) -> RetryAdvice {
        switch state.prefix(2) {
        case "40": return .retry(after: .milliseconds(20))
        case "08", "53", "57": return .retry(after: .seconds(1))
        case "58": return .retry(after: .seconds(5))
        default: break
        }
        switch PostgresError.Code(rawValue: state) {
        case .lockNotAvailable, .readOnlyTransaction, .unknownStatement: return .retry(after: .seconds(1))
        default: return .never
        }
    }
}
