import FoundationEssentials
import NIOCore
import NIOPosix
import Synchronization

/// Relays a unix socket to another, and can be cut and opened again.
final class SocketRelay: Sendable {
    let path = "/tmp/martlet-relay-\(UUID().uuidString.prefix(8)).sock"
    private let target: String
    private let channels = Mutex<[any Channel]>([])

    init(to target: String) async throws {
        self.target = target
        try await open()
    }

    func open() async throws {
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(.autoRead, value: false)
            .childChannelInitializer { self.join($0) }
            .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true)
            .get()
        channels.withLock { $0.append(server) }
    }

    /// Closes the listener and every connection.
    func cut() async throws {
        let all = channels.withLock { channels in
            defer { channels = [] }
            return channels
        }
        for channel in all { try? await channel.close() }
    }

    private func join(_ inbound: any Channel) -> EventLoopFuture<Void> {
        channels.withLock { $0.append(inbound) }
        return ClientBootstrap(group: inbound.eventLoop)
            .channelInitializer { $0.pipeline.addHandler(Forwarder(to: inbound)) }
            .connect(unixDomainSocketPath: target)
            .flatMap { inbound.pipeline.addHandler(Forwarder(to: $0)) }
            .flatMap { inbound.setOption(.autoRead, value: true) }
    }
}

/// Passes on to another channel what it reads, and its end.
private final class Forwarder: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer

    private let other: any Channel

    init(to other: any Channel) { self.other = other }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        other.writeAndFlush(unwrapInboundIn(data), promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        other.close(promise: nil)
        context.fireChannelInactive()
    }
}
