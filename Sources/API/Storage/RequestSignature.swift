import Crypto
import Domain
import FoundationEssentials
import HTTPTypes

/// AWS Signature Version 4 of a request in its headers, as S3 clients make it; read, and verified against a secret.
///
/// Only what is signed counts: the payload's hash, the session token, the date and the host must be, or it is refused.
struct RequestSignature: Sendable {
    /// How far a client's clock may be off.
    static let clockSkewLimit: Duration = .seconds(15 * 60)

    let accessKey: String
    let sessionToken: String
    /// Lower-case hexadecimal SHA-256 of the body; whoever reads the body compares.
    let payloadHash: String
    let date: Date
    private let stamp: String
    private let scope: Scope
    private let signature: [UInt8]
    private let canonicalRequest: String

    private struct Scope {
        let date: String
        let region: String

        var text: String { "\(date)/\(region)/s3/aws4_request" }
    }

    /// Throws 403 where the request has no such signature, or one that does not cover what it must.
    ///
    /// - Parameters:
    ///   - path: as it was sent, still encoded, with the query if there is one.
    ///   - region: the only one that is accepted.
    init(method: String, path: String, authority: String, headers: HTTPFields, region: String) throws {
        let fields = try Self.fields(headers[.authorization] ?? "")
        guard let credential = fields["Credential"]?.split(separator: "/", omittingEmptySubsequences: false),
            credential.count == 5,
            credential[2] == region, credential[3] == "s3", credential[4] == "aws4_request",
            let names = fields["SignedHeaders"]?.split(separator: ";"),
            let signature = fields["Signature"].flatMap(Self.bytes)
        else { throw Self.refusal("the Authorization field is not of an S3 request of region \(region)") }
        let signed = Set(names)
        guard Self.requiredNames.isSubset(of: signed), names == signed.sorted() else {
            throw Self.refusal("the signature must cover \(Self.requiredNames.sorted().joined(separator: ", "))")
        }
        var values: [Substring: String] = [:]
        for name in names { values[name] = try Self.value(of: name, headers, authority) }
        let stamp = values["x-amz-date"] ?? ""
        guard let date = Self.date(stamp), stamp.hasPrefix(credential[1]), credential[1].count == 8 else {
            throw Self.refusal(
                "the field x-amz-date is not a time such as 20260101T000000Z, of the day that was signed for"
            )
        }
        accessKey = String(credential[0])
        sessionToken = values["x-amz-security-token"] ?? ""
        payloadHash = values["x-amz-content-sha256"] ?? ""
        self.date = date
        self.stamp = stamp
        self.signature = signature
        scope = Scope(date: String(credential[1]), region: region)
        canonicalRequest = Self.canonical(method, path, names, values, payloadHash)
    }

    /// Whether it was made with this secret, and lately.
    func isValid(secret: String, now: Date) -> Bool {
        let skew = abs(now.timeIntervalSince(date))
        guard skew <= Double(Self.clockSkewLimit.components.seconds) else { return false }
        let hash = SHA256.hash(data: Data(canonicalRequest.utf8)).hexadecimal
        let text = "AWS4-HMAC-SHA256\n\(stamp)\n\(scope.text)\n\(hash)"
        var key = SymmetricKey(data: Data("AWS4\(secret)".utf8))
        for part in [scope.date, scope.region, "s3", "aws4_request"] {
            key = SymmetricKey(data: HMAC<SHA256>.authenticationCode(for: Data(part.utf8), using: key))
        }
        // Takes the same time wherever they differ.
        return HMAC<SHA256>.isValidAuthenticationCode(signature, authenticating: Data(text.utf8), using: key)
    }

    private static let requiredNames: Set<Substring> = [
        "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token",
    ]

    static func refusal(_ why: String) -> APIError { .forbidden("the request is not signed as it must be: \(why)") }

    private static func fields(_ text: String) throws -> [Substring: Substring] {
        let parts = text.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0] == "AWS4-HMAC-SHA256" else {
            throw refusal("use the credentials of GET /object-storage/push-access, with AWS4-HMAC-SHA256")
        }
        var fields: [Substring: Substring] = [:]
        for field in parts[1].split(whereSeparator: { $0 == "," || $0 == " " }) {
            let pair = field.split(separator: "=", maxSplits: 1)
            guard pair.count == 2, fields.updateValue(pair[1], forKey: pair[0]) == nil else {
                throw refusal("the Authorization field is broken")
            }
        }
        return fields
    }

    /// Trimmed, and with single blanks.
    private static func value(of name: Substring, _ headers: HTTPFields, _ authority: String) throws -> String {
        if name == "host" { return authority }
        guard let field = HTTPField.Name(String(name)) else { throw refusal("a signed field has no proper name") }
        let values = headers[values: field]
        guard !values.isEmpty else { throw refusal("the field \(name.prefix(64)) is signed, but was not sent") }
        return values.map { $0.split(separator: " ").joined(separator: " ") }.joined(separator: ",")
    }

    private static func canonical(
        _ method: String,
        _ path: String,
        _ names: [Substring],
        _ values: [Substring: String],
        _ payloadHash: String
    ) -> String {
        let parts = path.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        let pairs = (parts.count == 2 ? parts[1].split(separator: "&") : []).map { pair in
            let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            return (name: sides[0], value: sides.count == 2 ? sides[1] : "")
        }
        let query = pairs.sorted { ($0.name, $0.value) < ($1.name, $1.value) }.map { "\($0.name)=\($0.value)" }
        let lines = [method, String(parts[0]), query.joined(separator: "&")]
        let headers = names.map { "\($0):\(values[$0, default: ""])" }
        return (lines + headers + ["", names.joined(separator: ";"), payloadHash]).joined(separator: "\n")
    }

    /// Hexadecimal.
    private static func bytes(_ text: Substring) -> [UInt8]? {
        guard text.utf8.count == 64 else { return nil }
        let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 64 else { return nil }
        return stride(from: 0, to: 64, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    private static func date(_ text: String) -> Date? {
        guard let match = text.wholeMatch(of: /(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z/) else { return nil }
        let t = match.output
        return try? Date("\(t.1)-\(t.2)-\(t.3)T\(t.4):\(t.5):\(t.6)Z", strategy: .iso8601)
    }
}
