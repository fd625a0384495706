import CLibSSH
import Glibc

/// The key by which a sandbox's SSH server is known. It is derived from the sandbox's token, so it is the same after every
/// restart, differs between sandboxes made of one snapshot, and lies in no file.
///
/// `@unchecked Sendable`: the key is never written after `init`; all that threads do with it is `ssh_key_dup` (in
/// `martlet_ssh_accept`), which reads; the only other write is `ssh_key_free`, when no reference is left.
final class HostKey: @unchecked Sendable {
    let raw: ssh_key
    let line: String

    init?(token: [UInt8]) {
        let made = token.withUnsafeBytes {
            martlet_ssh_host_key($0.bindMemory(to: CChar.self).baseAddress, $0.count)
        }
        guard let key = made else { return nil }
        guard let line = PublicKey(key)?.line else {
            ssh_key_free(key)
            return nil
        }
        (raw, self.line) = (key, line)
    }

    deinit { ssh_key_free(raw) }
}

/// A public key, as in a line of an authorized_keys file.
struct PublicKey: Sendable, Hashable {
    let type: String
    let base64: String

    var line: String { "\(type) \(base64)" }

    /// Of a key of libssh's, which is borrowed.
    init?(_ key: ssh_key?) {
        var encoded: UnsafeMutablePointer<CChar>?
        guard let key, ssh_pki_export_pubkey_base64(key, &encoded) == SSH_OK else { return nil }
        type = text(ssh_key_type_to_char(ssh_key_type(key)))
        base64 = text(encoded)
        ssh_string_free_char(encoded)
    }

    /// - Throws: 400 naming what is wrong with the line.
    init(line: String, field: String) throws {
        guard line.utf8.count <= SSHLimit.keyBytes else {
            throw ToolboxError.badRequest(
                "\(field) is \(line.utf8.count) bytes long, the limit is \(SSHLimit.keyBytes)"
            )
        }
        let words = line.split(whereSeparator: \.isWhitespace)
        guard words.count >= 2, Self.types.contains(String(words[0])) else {
            throw ToolboxError.badRequest(
                "\(field) is not a public key of the form 'TYPE BASE64 [COMMENT]' with a type of: "
                    + Self.types.joined(separator: ", ")
            )
        }
        martlet_ssh_prepare()
        var key: ssh_key?
        let type = ssh_key_type_from_name(String(words[0]))
        guard ssh_pki_import_pubkey_base64(String(words[1]), type, &key) == SSH_OK, let key else {
            throw ToolboxError.badRequest("\(field) holds no valid key of type \(words[0])")
        }
        defer { ssh_key_free(key) }
        guard let canonical = PublicKey(key) else {
            throw ToolboxError.badRequest("\(field) holds a key that cannot be used")
        }
        self = canonical
    }

    private static let types = [
        "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
        "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
    ]
}
