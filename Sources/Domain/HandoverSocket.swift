/// Where a runner hands connections over to the proxies of its own host: a Unix socket in a folder that both know, named by
/// the runner's certificate. So a proxy that knows a route finds the right runner's and no other, or none.
package enum HandoverSocket {
    /// Longest path of a Unix socket: the kernel's limit.
    package static let pathBytesLimit = 107

    /// - Parameter fingerprint: lower-case hexadecimal SHA-256 of the certificate, as in the runner's row.
    package static func path(in folder: String, fingerprint: String) -> String {
        "\(folder)/\(fingerprint.prefix(32)).sock"
    }
}
