import CLinux
import Glibc

/// Where a connection goes to or comes from.
package struct PeerAddress: Sendable {
    private var storage: sockaddr_storage
    private var length: socklen_t

    /// The loopback of this sandbox, the only place where anything of ours listens.
    package static func loopback(port: UInt16) -> PeerAddress {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return PeerAddress(address)
    }

    /// A socket in the file system; nil if the path is too long for one.
    package init?(path: String) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let fits = withUnsafeMutableBytes(of: &address.sun_path) { place in
            guard path.utf8.count < place.count else { return false }
            place.copyBytes(from: path.utf8)
            return true
        }
        guard fits else { return nil }
        self.init(address)
    }

    private init(_ storage: sockaddr_storage) {
        self.storage = storage
        length = socklen_t(
            storage.ss_family == sa_family_t(AF_INET6)
                ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size
        )
    }

    private init<Address>(_ address: Address) {
        storage = sockaddr_storage()
        length = socklen_t(MemoryLayout<Address>.size)
        withUnsafeMutableBytes(of: &storage) { place in
            withUnsafeBytes(of: address) { place.copyMemory(from: $0) }
        }
    }

    /// The addresses of a host; empty if it has none. Blocks.
    package static func resolve(_ host: String, port: UInt16) -> [PeerAddress] {
        var found = [sockaddr_storage](repeating: sockaddr_storage(), count: 8)
        let count = martlet_resolve(host, port, &found, found.count)
        return found.prefix(max(0, Int(count))).map { PeerAddress($0) }
    }

    private func withAddress<Value>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Value) -> Value {
        withUnsafeBytes(of: storage) { bytes in
            body(bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), length)  // not empty
        }
    }

    private func newSocket() -> CInt? {
        let descriptor = socket(CInt(storage.ss_family), CInt(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        setNonBlocking(descriptor)
        return descriptor
    }

    /// A socket that is connecting, or is connected; nil if that failed at once. The caller closes it.
    package func connectingSocket() -> CInt? {
        guard let descriptor = newSocket() else { return nil }
        guard withAddress({ connect(descriptor, $0, $1) }) == 0 || errno == EINPROGRESS else {
            close(descriptor)
            return nil
        }
        return descriptor
    }

    /// A socket that listens; nil if the address is in use or not allowed: `errno` says why. The caller closes it.
    package func listeningSocket(backlog: CInt = 128) -> CInt? {
        guard let descriptor = newSocket() else { return nil }
        var on: CInt = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<CInt>.size))
        guard withAddress({ bind(descriptor, $0, $1) }) == 0, listen(descriptor, backlog) == 0 else {
            let reason = errno
            close(descriptor)
            errno = reason
            return nil
        }
        return descriptor
    }

    /// The address that a socket has, or that its other end has.
    package static func of(_ socket: CInt, otherEnd: Bool = false) -> PeerAddress {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                _ = otherEnd ? getpeername(socket, address, &length) : getsockname(socket, address, &length)
            }
        }
        return PeerAddress(storage)
    }

    /// 0 if it is none of TCP.
    package var port: Int {
        withUnsafeBytes(of: storage) { bytes in
            switch storage.ss_family {
            case sa_family_t(AF_INET): Int(bytes.load(as: sockaddr_in.self).sin_port.bigEndian)
            case sa_family_t(AF_INET6): Int(bytes.load(as: sockaddr_in6.self).sin6_port.bigEndian)
            default: 0
            }
        }
    }

    /// In digits; empty if it is none of TCP.
    package var host: String {
        var name = [CChar](repeating: 0, count: 64)
        withUnsafeBytes(of: storage) { bytes in
            switch storage.ss_family {
            case sa_family_t(AF_INET):
                var address = bytes.load(as: sockaddr_in.self).sin_addr
                inet_ntop(AF_INET, &address, &name, socklen_t(name.count))
            case sa_family_t(AF_INET6):
                var address = bytes.load(as: sockaddr_in6.self).sin6_addr
                inet_ntop(AF_INET6, &address, &name, socklen_t(name.count))
            default: break
            }
        }
        return text(name)
    }
}

/// Makes reads, writes, accepts and connects on a descriptor answer EAGAIN or EINPROGRESS rather than wait.
package func setNonBlocking(_ descriptor: CInt) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
}
