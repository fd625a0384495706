import Crypto
import FoundationEssentials

/// What lets into a sandbox by SSH, as the user's name: 32 letters and digits, which are 190 random bits. They need no
/// quoting in a shell and cannot be taken for an option. Kept only as its SHA-256.
package struct SSHToken: Sendable, Hashable, CustomStringConvertible {
    /// What the user holds.
    package let text: String

    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789".utf8)
    private static let length = 32

    /// A new token from the system's random generator.
    package static func random() -> SSHToken {
        var generator = SystemRandomNumberGenerator()
        let digits = (0..<length).map { _ in alphabet[Int.random(in: alphabet.indices, using: &generator)] }
        return SSHToken(unchecked: String(decoding: digits, as: UTF8.self))
    }

    /// Reads a token; nil if it cannot be one, so that nonsense costs no query.
    package init?(_ text: some StringProtocol) {
        guard text.utf8.count == Self.length, text.utf8.allSatisfy(Self.alphabet.contains) else { return nil }
        self.text = String(text)
    }

    private init(unchecked text: String) { self.text = text }

    /// What the table holds.
    package var hash: [UInt8] { Array(SHA256.hash(data: Data(text.utf8))) }

    /// Never the token.
    package var description: String { "\(text.prefix(4))…" }
}
