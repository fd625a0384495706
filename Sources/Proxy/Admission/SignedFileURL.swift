import Crypto
import FoundationEssentials

/// The three query parameters of a signed file URL: `path`, `expires`, `signature`.
///
/// Each must be there once and nothing else may be, so that the daemon cannot read another `path` than the one signed.
struct SignedFileURL: Equatable {
    var path: String
    var expires: Int64
    var signature: [UInt8]

    /// Nil where the query is not exactly of this form.
    init?(query: Substring) {
        var values: [Substring: Substring] = [:]
        for pair in query.split(separator: "&", omittingEmptySubsequences: false) {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, values.updateValue(parts[1], forKey: parts[0]) == nil else { return nil }
        }
        guard values.count == 3, let path = values["path"].flatMap(Self.formDecoded),
            let expires = values["expires"].flatMap(Self.canonicalInteger),
            let signature = values["signature"].flatMap(Self.signatureBytes)
        else { return nil }
        (self.path, self.expires, self.signature) = (path, expires, signature)
    }

    /// Whether the signature is genuine and has not expired (0: never does). The comparison takes constant time.
    func isValid(method: String, key: SymmetricKey, now: Int64) -> Bool {
        let message = Array("v1:files:\(method):\(path):\(expires)".utf8)
        let genuine = HMAC<SHA256>.isValidAuthenticationCode(signature, authenticating: message, using: key)
        return genuine && (expires == 0 || expires > now)
    }

    private static func canonicalInteger(_ text: Substring) -> Int64? {
        guard (1...15).contains(text.utf8.count), text.utf8.allSatisfy(Syntax.isDigit) else { return nil }
        guard text.utf8.first != UInt8(ascii: "0") || text.utf8.count == 1 else { return nil }
        return Int64(text)
    }

    /// `v1_` and unpadded base64url of 32 bytes.
    private static func signatureBytes(_ text: Substring) -> [UInt8]? {
        guard text.hasPrefix("v1_"), text.utf8.count == 46 else { return nil }
        let standard = text.dropFirst(3).map { $0 == "-" ? "+" : $0 == "_" ? "/" : $0 } + ["="]
        return Data(base64Encoded: String(standard)).map { Array($0) }
    }

    /// `+` is a space, `%XX` a byte; nil where that is not UTF-8.
    private static func formDecoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "+"): bytes.append(Syntax.space)
            case UInt8(ascii: "%"):
                guard let high = rest.popFirst().flatMap(Syntax.hexadecimalValue),
                    let low = rest.popFirst().flatMap(Syntax.hexadecimalValue)
                else { return nil }
                bytes.append(high << 4 | low)
            default: bytes.append(byte)
            }
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
