import CLinux
import Domain
import NIOCore
import NIOPosix
import Synchronization

#if canImport(Glibc)
    import Glibc
#endif

/// Connects to 127.0.0.1 inside a sandbox's network namespace.
///
/// Only the making of the socket happens over there, on threads of its own and within microseconds; connecting, with
/// its deadline, is the event loop's. So a sandbox whose server does not accept can hold up nobody else.
struct NamespaceDialer: Sendable {
    private let threads: NIOThreadPool

    init(threads count: Int) {
        threads = NIOThreadPool(numberOfThreads: count)
        threads.start()
    }

    /// Ends the threads once their work is done.
    func close() async {
        try? await threads.shutdownGracefully()
    }

    /// A connected channel on `loop`, prepared by `initialize`. Fails with ``IngressRefusal``.
    func dial(
        _ target: SandboxTarget,
        of sandbox: SandboxID,
        port: Int,
        limits: IngressLimits,
        on loop: any EventLoop,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        threads.runIfActive(eventLoop: loop) { try Self.openSocket(in: target, of: sandbox) }
            .flatMap { descriptor in
                let connection = OwnedSocket(descriptor)
                return ClientBootstrap(group: loop)
                    .channelOption(.allowRemoteHalfClosure, value: true)
                    .connectTimeout(limits.dialDeadline)
                    .channelInitializer { channel in
                        Self.reseat(channel, on: connection).flatMap {
                            channel.setOption(.socketOption(.so_rcvbuf), value: .init(limits.receiveBufferBytes))
                        }.flatMap { initialize(channel) }
                    }
                    .connect(host: "127.0.0.1", port: port)
                    .flatMapErrorThrowing { throw Self.refusal(for: $0, sandbox: sandbox, port: port) }
                    .always { _ in connection.close() }
            }
    }

    /// A socket that is closed once, however the dialing ends: also before a channel took it over.
    private final class OwnedSocket: Sendable {
        let descriptor: CInt
        private let isClosed = Mutex(false)

        init(_ descriptor: CInt) { self.descriptor = descriptor }

        deinit { close() }

        func close() {
            let isMine = isClosed.withLock { isClosed in
                defer { isClosed = true }
                return !isClosed
            }
            if isMine { _ = Glibc.close(descriptor) }
        }
    }

    /// Blocking for microseconds; called on the dialer's own threads. The caller owns the descriptor.
    private static func openSocket(in target: SandboxTarget, of sandbox: SandboxID) throws -> CInt {
        let result = martlet_netns_socket(target.pid, target.cgroupFragment)
        if result >= 0 { return result }
        switch -result {
        case ESRCH, ENOENT, MARTLET_NETNS_STRANGER, MARTLET_NETNS_HOME:
            throw IngressRefusal.notRunning(sandbox, state: "not running (its process is gone)")
        case let code:
            throw IngressRefusal.internal("no socket in the sandbox's namespace: \(String(cString: strerror(code)))")
        }
    }

    /// Puts the channel, which has not been registered or connected yet, on the socket from the other namespace.
    private static func reseat(_ channel: any Channel, on connection: OwnedSocket) -> EventLoopFuture<Void> {
        do {
            let moved = try channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
                of: NIOBSDSocket.Handle.self
            ) { martlet_reseat(connection.descriptor, $0) }
            guard moved == 0 else { throw IngressRefusal.internal("the channel's socket could not be replaced") }
            return channel.eventLoop.makeSucceededVoidFuture()
        } catch {
            return channel.eventLoop.makeFailedFuture(error)
        }
    }

    private static func refusal(for error: any Error, sandbox: SandboxID, port: Int) -> any Error {
        if error is IngressRefusal { return error }
        if case ChannelError.connectTimeout = error { return IngressRefusal.timedOut(sandbox, port: port) }
        let code = (error as? NIOConnectionError)?.connectionErrors.first.flatMap { $0.error as? IOError }?.errnoCode
        let reason = (code ?? (error as? IOError)?.errnoCode).map { String(cString: strerror($0)) }
        return IngressRefusal.refusedInside(sandbox, port: port, reason: reason ?? "connection failed")
    }
}
