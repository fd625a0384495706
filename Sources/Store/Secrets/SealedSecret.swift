import Crypto
import FoundationEssentials

/// A secret as the database holds it: readable only with the key, and only in the place it was sealed for.
package struct SealedSecret: Sendable, Hashable {
    /// Nonce, ciphertext and tag of AES-GCM.
    package let bytes: [UInt8]

    package init(bytes: [UInt8]) { self.bytes = bytes }
}

/// Seals and opens secrets that rows hold for their owners (passwords of registries), with a key that api and runners are
/// given by their environment and the database never sees: a copy of the database is worth nothing without it.
package struct SecretBox: Sendable, CustomStringConvertible {
    /// What is wrong, with what to do; never with the secret.
    package struct Failure: Error, Hashable, CustomStringConvertible {
        package let description: String
        package init(description: String) { self.description = description }
    }

    /// Of the key, in bytes.
    package static let keyLength = 32

    private let key: SymmetricKey

    /// Reads the key: 64 hexadecimal digits, as `openssl rand -hex 32` prints them. Throws ``Failure``.
    package init(hexKey text: String) throws {
        let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue.map(UInt8.init) }
        guard digits.count == text.utf8.count, digits.count == 2 * Self.keyLength else {
            throw Failure(
                description: "the key for secrets must be 64 hexadecimal digits: make one with `openssl rand -hex 32`"
            )
        }
        key = SymmetricKey(
            data: Data(stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] })
        )
    }

    /// - Parameter place: names the row and what the secret is for; only there can it be opened.
    package func seal(_ secret: String, for place: String) throws -> SealedSecret {
        do {
            let box = try AES.GCM.seal(Data(secret.utf8), using: key, authenticating: Data(place.utf8))
            guard let combined = box.combined else { throw Failure(description: "the secret could not be sealed") }
            return SealedSecret(bytes: Array(combined))
        } catch let failure as Failure {
            throw failure
        } catch {
            throw Failure(description: "the secret could not be sealed")
        }
    }

    /// Throws ``Failure`` when it was sealed with another key or for another place.
    package func open(_ sealed: SealedSecret, for place: String) throws -> String {
        guard let box = try? AES.GCM.SealedBox(combined: Data(sealed.bytes)),
            let opened = try? AES.GCM.open(box, using: key, authenticating: Data(place.utf8)),
            let secret = String(validating: opened, as: UTF8.self)
        else {
            throw Failure(
                description:
                    "the stored secret cannot be opened: it was sealed with another MARTLET_SECRETS_KEY or for another host; give it anew"
            )
        }
        return secret
    }

    /// Says nothing.
    package var description: String { "SecretBox" }
}
