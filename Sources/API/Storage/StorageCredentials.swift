import Crypto
import Domain
import FoundationEssentials

/// Short-lived S3 credentials of an API key. Nothing of them is stored: the secret follows from the hash of the key, which the
/// database has, and from the session token, which says how long they are good. A revoked key takes them with it.
struct StorageCredentials: Sendable, Hashable {
    static let lifetime: Duration = .seconds(3600)

    let accessKey: APIKeyID
    let sessionToken: String
    let secret: String

    /// Credentials of a key that are good until `expiry`.
    init(key: APIKeyID, keyHash: [UInt8], until expiry: Date) {
        accessKey = key
        sessionToken = "\(Int64(expiry.timeIntervalSince1970))"
        secret = Self.secret(keyHash, sessionToken)
    }

    /// The secret that goes with a session token; nil where the token is none of ours, or is over.
    static func secret(of sessionToken: String, keyHash: [UInt8], now: Date) -> String? {
        guard let expiry = Int64(sessionToken), "\(expiry)" == sessionToken,
            Date(timeIntervalSince1970: Double(expiry)) > now,
            // One that lasts longer was not made here; it would verify all the same only for who knows the key's hash.
            Double(expiry) <= now.timeIntervalSince1970 + Double(lifetime.components.seconds) + 60
        else { return nil }
        return secret(keyHash, sessionToken)
    }

    private static func secret(_ keyHash: [UInt8], _ sessionToken: String) -> String {
        let text = Data("martlet storage credentials until \(sessionToken)".utf8)
        return Array(HMAC<SHA256>.authenticationCode(for: text, using: SymmetricKey(data: keyHash))).hexadecimal
    }
}
