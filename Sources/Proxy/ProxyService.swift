import Limiting
package import Logging
package import NIOCore
import NIOPosix
import ServiceLifecycle
package import Store
import Tunnels

/// Where the proxy listens and how far it goes.
package struct ProxyConfiguration: Sendable {
    /// Address to bind.
    package var host: String
    /// 0 takes any free port.
    package var port: Int
    /// Folder where this proxy meets runners of its own host (``HandoverSocket``); nil: all are reached through TLS.
    package var handoverFolder: String?
    package var limits = ProxyLimits()

    package init(host: String, port: Int) {
        self.host = host
        self.port = port
    }
}

/// The front door for traffic to sandboxes: HTTP/1.1 in, a tunnel to the sandbox's daemon out.
///
/// Bind it, then run it in the service group after the database pool, so that it stops first.
package struct ProxyService: Service {
    /// What is listened on, the port resolved.
    package let address: SocketAddress

    private let listener: any Channel
    private let lanes: [NIOLoopBound<Lane>]
    private let local: LocalIngress?
    private let shared: ProxyShared

    /// Listens; requests are answered once ``run()`` runs. Throws if the address is taken.
    package static func bind(
        _ configuration: ProxyConfiguration,
        source: any RouteSource,
        log: Logger,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) async throws -> ProxyService {
        let limits = configuration.limits
        let shared = ProxyShared(
            limits: limits,
            table: RouteTable(source: source, limits: limits, log: log),
            activity: ActivityReporter(sink: source, limits: limits, log: log),
            clients: PlaceCounts(
                limit: limits.connectionsPerAddressLimit,
                totalLimit: limits.connectionsLimit
            ),
            log: log
        )
        let local = configuration.handoverFolder.map { LocalIngress(folder: $0, limits: limits) }
        let lanes = try await makeLanes(on: Array(group.makeIterator()), local: local, shared: shared)
        let byLoop = Dictionary(uniqueKeysWithValues: lanes.map { (ObjectIdentifier($0.eventLoop), $0) })
        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try initialize(channel, lanes: byLoop, shared: shared) }
            }
            .bind(host: configuration.host, port: configuration.port).get()
        guard let address = listener.localAddress else { throw ChannelError.unknownLocalAddress }
        return ProxyService(address: address, listener: listener, lanes: lanes, local: local, shared: shared)
    }

    private init(
        address: SocketAddress,
        listener: any Channel,
        lanes: [NIOLoopBound<Lane>],
        local: LocalIngress?,
        shared: ProxyShared
    ) {
        self.address = address
        self.listener = listener
        self.lanes = lanes
        self.local = local
        self.shared = shared
    }

    private static func makeLanes(
        on loops: [any EventLoop],
        local: LocalIngress?,
        shared: ProxyShared
    ) async throws -> [NIOLoopBound<Lane>] {
        let connector = try IngressConnector()
        var lanes: [NIOLoopBound<Lane>] = []
        for loop in loops {
            let lane = try await loop.submit {
                let pool = TunnelPool(
                    loop: loop,
                    connector: connector,
                    local: local,
                    limits: shared.limits,
                    share: loops.count
                )
                let lane = Lane(shared: shared, pool: pool)
                lane.start(on: loop)
                return NIOLoopBound(lane, eventLoop: loop)
            }.get()
            lanes.append(lane)
        }
        return lanes
    }

    private static func initialize(
        _ channel: any Channel,
        lanes: [ObjectIdentifier: NIOLoopBound<Lane>],
        shared: ProxyShared
    ) throws {
        let place = Place(of: channel.remoteAddress?.ipAddress ?? "unknown")
        guard let lane = lanes[ObjectIdentifier(channel.eventLoop)],
            shared.clients.admit(place)
        else { throw ProxyRefusal.unavailable("too many connections") }
        channel.closeFuture.whenComplete { _ in shared.clients.leave(place) }
        try channel.pipeline.syncOperations.addHandler(ClientConnection(lane: lane.value))
    }

    /// Open client connections, for metrics and tests.
    package var openConnections: Int { shared.clients.total }

    /// Serves until graceful shutdown, then lets requests in flight end within the drain deadline. Cancellation cuts at once.
    package func run() async throws {
        shared.log.info("proxy listens", metadata: ["proxy.address": "\(address)"])
        await withTaskGroup { group in
            group.addTask { await shared.table.run() }
            group.addTask { await shared.activity.run() }
            let graceful = await (try? gracefulShutdown()) != nil
            try? await listener.close()
            if graceful { await drain() }
            for lane in lanes { lane.eventLoop.execute { lane.value.stop() } }
            group.cancelAll()
        }
        await shared.activity.reportOnce()
        await local?.close()
    }

    private func drain() async {
        for lane in lanes { lane.eventLoop.execute { lane.value.drain() } }
        let deadline = NIODeadline.now() + shared.limits.drainDeadline
        while NIODeadline.now() < deadline, openConnections > 0, !Task.isCancelled {
            try? await Task.sleep(for: .milliseconds(20))
        }
    }
}
