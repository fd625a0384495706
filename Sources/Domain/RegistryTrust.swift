/// How a registry proves who it is.
package enum RegistryTrust: Sendable, Hashable {
    /// By a certificate of an authority that the host trusts.
    case system
    /// By one of an authority that the host trusts, or of these, in PEM.
    case authorities(String)
    /// Not at all: any certificate is taken, and plain HTTP too.
    case anything

    /// Of authorities in PEM, in bytes.
    package static let authoritiesByteLimit = 65_536
}
