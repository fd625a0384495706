import Domain
import Glibc
import Store
import Synchronization

/// What a connection's thread is told by others.
enum GatewayNews: Sendable {
    /// What the token opens, nil where nothing.
    case admission(Result<SSHAdmission?, any Error>)
    /// The tunnel that was asked for.
    case tunnel(Result<OwnedSocket, TunnelRefusal>)
    /// What was admitted has changed: it must be looked at again.
    case recheck
    /// The connection shall end, with this word.
    case end(String)
}

/// Why there is no tunnel, in words for the client.
struct TunnelRefusal: Error {
    var message: String
}

/// A socket that is closed with the last reference, unless somebody has taken it over.
final class OwnedSocket: Sendable {
    private let owned: Mutex<CInt?>
    let descriptor: CInt

    init(_ descriptor: CInt) {
        self.descriptor = descriptor
        owned = Mutex(descriptor)
    }

    /// The socket, for whoever closes it from now on.
    func take() -> CInt {
        owned.withLock { $0 = nil }
        return descriptor
    }

    deinit {
        if owned.withLock({ $0 }) != nil { close(descriptor) }
    }
}
