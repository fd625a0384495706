import CLinux
import NIOCore
import NIOPosix

#if canImport(Glibc)
    import Glibc
#endif

extension Channel {
    /// Leaves in the kernel what arrives. To be called by the channel's initializer.
    func handOverUnread() throws {
        try syncOptions?.setOption(.autoRead, value: false)
    }

    /// Sends this channel's socket to whoever holds the other end of `connection`, a Unix socket that nothing was written to.
    /// Both channels are of the calling event loop. This one keeps its own descriptor.
    func sendDescriptor(over connection: any Channel, with text: String) throws {
        let sent = try withDescriptor { mine in
            try connection.withDescriptor { martlet_hand_over($0, mine, text) }
        }
        guard sent == 0 else { throw IOError(errnoCode: -sent, reason: "sendmsg") }
    }

    private func withDescriptor<Value>(_ body: (CInt) throws -> Value) throws -> Value {
        let value = try pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self, body)
        guard let value else { throw ChannelError.operationUnsupported }
        return value
    }
}
