package import CLibSSH

/// The key by which an SSH server is known.
///
/// `@unchecked Sendable`: the key is never written after `init`; all that threads do with one that they share is `ssh_key_dup`
/// (in ``copy()`` and for each server's session), which reads; the only other write is `ssh_key_free`, when no reference is
/// left.
package final class KeyPair: @unchecked Sendable {
    package let raw: ssh_key
    /// Its public half, as in a line of a known_hosts file.
    package let line: String

    /// Derived from a sandbox's token, so it is the same after every restart, differs between sandboxes made of one snapshot,
    /// and lies in no file.
    package convenience init?(token: [UInt8]) {
        self.init(
            owning: token.withUnsafeBytes {
                martlet_ssh_host_key($0.bindMemory(to: CChar.self).baseAddress, $0.count)
            }
        )
    }

    /// The Ed25519 key of a file as `ssh-keygen` writes it, without a passphrase; nil if it is none.
    package convenience init?(file text: String) {
        martlet_ssh_prepare()
        var key: ssh_key?
        guard ssh_pki_import_privkey_base64(text, nil, nil, nil, &key) == SSH_OK else { return nil }
        self.init(owning: key)
    }

    /// The text of a file with a new key.
    package static func newFile() -> String? {
        martlet_ssh_prepare()
        var text = [CChar](repeating: 0, count: martlet_ssh_key_file_limit)
        guard martlet_ssh_new_key_file(&text, text.count) == 0 else { return nil }
        return SSHServing.text(text)
    }

    /// One for a single thread to sign with; nil if memory is short.
    package func copy() -> KeyPair? { KeyPair(owning: ssh_key_dup(raw)) }

    /// Takes the key over, also when it fails.
    private init?(owning key: ssh_key?) {
        guard let key else { return nil }
        guard ssh_key_type(key) == SSH_KEYTYPE_ED25519, let line = PublicKey(key)?.line else {
            ssh_key_free(key)
            return nil
        }
        (raw, self.line) = (key, line)
    }

    deinit { ssh_key_free(raw) }
}

/// A public key, as in a line of an authorized_keys file.
package struct PublicKey: Sendable, Hashable {
    package let type: String
    package let base64: String

    package var line: String { "\(type) \(base64)" }

    /// Of a key of libssh's, which is borrowed.
    package init?(_ key: ssh_key?) {
        var encoded: UnsafeMutablePointer<CChar>?
        guard let key, ssh_pki_export_pubkey_base64(key, &encoded) == SSH_OK else { return nil }
        type = text(ssh_key_type_to_char(ssh_key_type(key)))
        base64 = text(encoded)
        ssh_string_free_char(encoded)
    }
}

/// A text of libssh's, which is borrowed; bytes that are no UTF-8 are replaced.
package func text(_ borrowed: UnsafePointer<CChar>?) -> String { borrowed.map { String(cString: $0) } ?? "" }
