import Crypto
import FoundationEssentials

/// The secret of an API key: `mrt_` and 43 characters of base64url, which are 256 random bits. Kept only as its SHA-256.
package struct APIKeySecret: Sendable, Hashable, CustomStringConvertible {
    /// What the user holds.
    package let text: String

    private static let marker = "mrt_"
    private static let randomByteCount = 32
    private static let length = 47

    /// A new secret from the system's random generator.
    package static func random() -> APIKeySecret {
        var generator = SystemRandomNumberGenerator()
        let bytes = (0..<randomByteCount).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
        return APIKeySecret(unchecked: marker + Data(bytes).base64URLText)
    }

    /// Reads a secret; nil if it cannot be one, so that nonsense costs no query.
    package init?(_ text: some StringProtocol) {
        guard Array(text.utf8).withUnsafeBytes(Self.isWellFormed) else { return nil }
        self.text = String(text)
    }

    /// Whether these bytes have the form of a secret. Not generic: the proxy asks this of each request, from another module.
    package static func isWellFormed(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count == length, bytes.starts(with: marker.utf8) else { return false }
        return bytes[marker.utf8.count...].allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                true
            default: false
            }
        }
    }

    private init(unchecked text: String) { self.text = text }

    /// What the table holds.
    package var hash: [UInt8] { Array(SHA256.hash(data: Data(text.utf8))) }

    /// Enough to recognise it in a list and in events.
    package var prefix: String { String(text.prefix(8)) }

    /// The last four characters.
    package var suffix: String { String(text.suffix(4)) }

    /// Never the secret.
    package var description: String { "\(prefix)…\(suffix)" }
}

extension Data {
    /// RFC 4648 base64url without padding.
    package var base64URLText: String {
        base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
    }

    /// Reads base64url without padding; nil if it is none.
    package init?(base64URLText text: String) {
        let padding = String(repeating: "=", count: (4 - text.utf8.count % 4) % 4)
        self.init(base64Encoded: text.replacing("-", with: "+").replacing("_", with: "/") + padding)
    }
}
