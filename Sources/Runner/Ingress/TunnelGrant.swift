import Crypto
import Domain
import FoundationEssentials

/// The credential of a CONNECT: `Martlet v1.<expires>.<hex hmac>`, made by the proxy with the runner's secret.
struct TunnelGrant: Equatable {
    var expires: Int64
    var code: [UInt8]

    /// Parses the field's value; nil unless it is written exactly so.
    init?(field: Substring) {
        guard field.hasPrefix("Martlet v1.") else { return nil }
        let parts = field.dropFirst("Martlet v1.".count).split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let expires = CanonicalInteger.parse(parts[0]), let code = Self.bytes(hex: parts[1])
        else {
            return nil
        }
        self.expires = Int64(expires)
        self.code = code
    }

    /// Whether this grants `request` at `now` (Unix seconds). The comparison takes constant time.
    func admits(
        _ sandbox: SandboxID,
        port: Int,
        epoch: Int,
        secret: SymmetricKey,
        now: Int64,
        lifetimeLimit: Int64
    ) -> Bool {
        let message = Array("v1:\(sandbox):\(port):\(epoch):\(expires)".utf8)
        let genuine = HMAC<SHA256>.isValidAuthenticationCode(code, authenticating: message, using: secret)
        return genuine && expires > now && expires - now <= lifetimeLimit
    }

    /// 32 bytes from 64 lower-case hexadecimal digits.
    private static func bytes(hex: Substring) -> [UInt8]? {
        guard hex.utf8.count == 64 else { return nil }
        var bytes: [UInt8] = []
        var high: UInt8?
        for digit in hex.utf8 {
            let value: UInt8
            switch digit {
            case 48...57: value = digit - 48
            case 97...102: value = digit - 87
            default: return nil
            }
            if let first = high {
                bytes.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        return bytes
    }
}
