import CLibSSH
import SSHServing

extension PublicKey {
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
