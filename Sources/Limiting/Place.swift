import Glibc

/// Whose connections and attempts are counted together, since one peer may have all of them: an address of IPv4, also one that
/// is mapped into IPv6, and of IPv6 the network of 64 bits.
package struct Place: Hashable, Sendable, CustomStringConvertible {
    package let description: String

    /// - Parameter address: in digits, without a port. What is no address is a place of its own.
    package init(of address: String) {
        var bytes = [UInt8](repeating: 0, count: 16)
        guard inet_pton(AF_INET6, address, &bytes) == 1 else {
            description = address
            return
        }
        if bytes.starts(with: Array(repeating: 0, count: 10) + [0xFF, 0xFF]) {
            description = bytes[12...].map { "\($0)" }.joined(separator: ".")
            return
        }
        bytes.replaceSubrange(8..., with: repeatElement(0, count: 8))
        var name = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        inet_ntop(AF_INET6, bytes, &name, socklen_t(name.count))
        description = name.withUnsafeBufferPointer { String(cString: $0.baseAddress!) } + "/64"
    }
}
