import Docker
import NIOCore
import NIOPosix
import Synchronization

/// A socket in front of the engine's that can be taken away, connections and all, and put back.
final class EngineGate: Sendable {
    let host: DockerHost
    private let engine: DockerHost
    private let open = Mutex<[any Channel]>([])

    static func open(to engine: DockerHost) async throws -> EngineGate {
        let gate = EngineGate(engine)
        try await gate.reopen()
        return gate
    }

    private init(_ engine: DockerHost) {
        self.engine = engine
        host = DockerHost(socketPath: "/tmp/martlet-gate-\(UInt32.random(in: 0 ... .max)).sock")
    }

    func reopen() async throws {
        let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { self.splice($0) }
            .bind(unixDomainSocketPath: host.socketPath, cleanupExistingSocketFile: true).get()
        open.withLock { $0.append(listener) }
    }

    func close() async throws {
        let channels = open.withLock { open in
            defer { open = [] }
            return open
        }
        for channel in channels { try? await channel.close() }
    }

    private func splice(_ client: any Channel) -> EventLoopFuture<Void> {
        open.withLock { $0.append(client) }
        return ClientBootstrap(group: client.eventLoop)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { server in
                server.eventLoop.makeCompletedFuture {
                    try server.pipeline.syncOperations.addHandler(Relay(to: client))
                }
            }
            .connect(unixDomainSocketPath: engine.socketPath)
            .flatMapThrowing { server in
                self.open.withLock { $0.append(server) }
                try client.pipeline.syncOperations.addHandler(Relay(to: server))
            }
    }
}

private final class Relay: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let other: any Channel

    init(to other: any Channel) { self.other = other }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        other.writeAndFlush(unwrapInboundIn(data), promise: nil)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed = event { other.close(mode: .output, promise: nil) }
    }

    func channelInactive(context: ChannelHandlerContext) { other.close(promise: nil) }
}
