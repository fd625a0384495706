import Crypto
import Domain
import FoundationEssentials
import NIOSSL
import SwiftASN1
import X509

#if canImport(Glibc)
    import Glibc
#endif

/// The runner's certificate and key, made by itself and kept in its state directory.
///
/// Nobody signs it: proxies pin its fingerprint, which they read from the runner's row.
package struct IngressIdentity: Sendable {
    let certificate: NIOSSLCertificate
    let key: NIOSSLPrivateKey
    /// Lower-case hexadecimal SHA-256 of the certificate's DER form.
    package let fingerprint: String

    /// Reads `ingress.pem` in `directory`, or makes it (mode 0600, written whole or not at all).
    ///
    /// Blocking and short: for the start of the process. Throws if the file cannot be read, written or understood; a
    /// damaged file is never replaced silently, because proxies would find another fingerprint.
    package static func load(from directory: String) throws -> IngressIdentity {
        let path = directory + "/ingress.pem"
        if FileManager.default.fileExists(atPath: path) {
            return try IngressIdentity(pem: Array(Data(contentsOf: URL(filePath: path))))
        }
        let pem = try makePEM(now: Date())
        try write(Array(pem.utf8), to: path)
        return try IngressIdentity(pem: Array(pem.utf8))
    }

    init(pem: [UInt8]) throws {
        guard let certificate = try NIOSSLCertificate.fromPEMBytes(pem).first else {
            throw IngressRefusal.internal("ingress.pem holds no certificate; remove the file to have a new one made")
        }
        self.certificate = certificate
        key = try NIOSSLPrivateKey(bytes: pem, format: .pem)
        fingerprint = SHA256.hash(data: try certificate.toDERBytes()).hexadecimal
    }

    /// Twenty years: the pin in the runner's row, not the date, is what ends a certificate.
    private static func makePEM(now: Date) throws -> String {
        let key = P256.Signing.PrivateKey()
        let name = try DistinguishedName { CommonName("martlet runner") }
        let certificate = try Certificate(
            version: .v3,
            serialNumber: .init(),
            publicKey: .init(key.publicKey),
            notValidBefore: now.addingTimeInterval(-86400),
            notValidAfter: now.addingTimeInterval(20 * 365 * 86400),
            issuer: name,
            subject: name,
            signatureAlgorithm: .ecdsaWithSHA256,
            extensions: Certificate.Extensions { BasicConstraints.notCertificateAuthority },
            issuerPrivateKey: .init(key)
        )
        return try certificate.serializeAsPEM().pemString + "\n" + key.pemRepresentation + "\n"
    }

    private static func write(_ bytes: [UInt8], to path: String) throws {
        let draft = path + ".new"
        let file = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else {
            throw IngressRefusal.internal("cannot write \(draft): \(String(cString: strerror(errno)))")
        }
        defer { close(file) }
        let written = bytes.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
        guard written == bytes.count, fchmod(file, 0o600) == 0, fsync(file) == 0, rename(draft, path) == 0 else {
            throw IngressRefusal.internal("cannot write \(path): \(String(cString: strerror(errno)))")
        }
    }
}
