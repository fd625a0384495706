package import NIOCore
import NIOPosix
import NIOSSL

#if canImport(Glibc)
    import Glibc
#endif

extension ChannelHandlerContext {
    /// Closes once all that was written is with the kernel.
    ///
    /// Closing at once would throw away what is still queued where the other direction has ended already.
    package func closeAfterWrites(mode: CloseMode) {
        let written = eventLoop.makePromise(of: Void.self)
        written.futureResult.assumeIsolated().whenComplete { _ in
            // Not from within the flush that completed the write: TLS's closing alert would be queued behind it and lost.
            self.eventLoop.assumeIsolated().execute { self.close(mode: mode, promise: nil) }
        }
        writeAndFlush(NIOAny(ByteBuffer()), promise: written)
    }

    /// Resets the TCP connection; no TLS alert tells the peer that the stream ended well.
    package func closeAbruptly() {
        if let provider = channel as? any SocketOptionProvider {
            // The future is already complete: this is the channel's own event loop. A failure changes nothing here.
            _ = provider.setSoLinger(linger(l_onoff: 1, l_linger: 0))
        }
        let pipeline = pipeline.syncOperations
        let tls =
            (try? pipeline.context(handlerType: NIOSSLServerHandler.self))
            ?? (try? pipeline.context(handlerType: NIOSSLClientHandler.self))
        if let tls { tls.close(mode: .all, promise: nil) } else { close(mode: .all, promise: nil) }
    }
}
