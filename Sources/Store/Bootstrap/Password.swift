import FoundationEssentials

/// Makes passwords for logins.
enum Password {
    /// 256 random bits in base64url, which needs no escaping in a connection URL.
    static func random() -> String {
        var generator = SystemRandomNumberGenerator()
        return Data((0..<32).map { _ in UInt8.random(in: .min ... .max, using: &generator) }).base64URLText
    }
}
