import Crypto
import Domain
import FoundationEssentials
package import Logging
package import NIOCore
import NIOPosix
import NIOSSL
import ServiceLifecycle

#if canImport(Glibc)
    import Glibc
#endif

/// Where and with what the ingress listens.
package struct IngressConfiguration: Sendable {
    /// Address to bind; must be one that proxies reach and sandboxes do not.
    package var host: String
    /// 0 takes any free port.
    package var port: Int
    /// What proxies sign their tokens with: at least 32 random bytes, in the runner's row.
    package var secret: [UInt8]
    /// Folder for the Unix socket over which proxies of this host are given connections to keep (``HandoverSocket``); nil: none.
    package var handoverFolder: String?
    package var limits = IngressLimits()

    package init(host: String, port: Int, secret: [UInt8]) {
        self.host = host
        self.port = port
        self.secret = secret
    }
}

/// The runner's door for proxies: TLS, one CONNECT for each connection, then bytes to 127.0.0.1 in a sandbox.
/// Proxies of the same host may ask over a Unix socket instead, and are given the connection itself.
///
/// Bind first, register ``address`` and ``fingerprint`` in the runner's row, and run it in the service group.
package struct IngressServer: Service {
    /// What is listened on, the port resolved.
    package let address: SocketAddress
    /// Lower-case hexadecimal SHA-256 of the certificate, which proxies pin.
    package let fingerprint: String

    private let listeners: [any Channel]
    private let shared: IngressContext

    /// Listens. Throws if the address is taken or the secret is too short.
    package static func bind(
        _ configuration: IngressConfiguration,
        identity: IngressIdentity,
        dialing: any SandboxDialing,
        log: Logger,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) async throws -> IngressServer {
        guard configuration.secret.count >= 32 else {
            throw IngressRefusal.internal("the ingress secret has \(configuration.secret.count) bytes; 32 are needed")
        }
        let shared = IngressContext(
            secret: SymmetricKey(data: configuration.secret),
            limits: configuration.limits,
            dialing: dialing,
            dialer: NamespaceDialer(threads: configuration.limits.dialThreads),
            roster: TunnelRoster(),
            log: log
        )
        let tls = try tlsContext(identity)
        let local = try await bindLocally(configuration, identity, shared: shared, group: group)
        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
            .childChannelOption(.socketOption(.so_rcvbuf), value: .init(configuration.limits.receiveBufferBytes))
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try initialize(channel, tls: tls, shared: shared) }
            }
            .bind(host: configuration.host, port: configuration.port).get()
        guard let address = listener.localAddress else { throw IngressRefusal.internal("the listener has no address") }
        return IngressServer(
            address: address,
            fingerprint: identity.fingerprint,
            listeners: [listener] + (local.map { [$0] } ?? []),
            shared: shared
        )
    }

    private init(address: SocketAddress, fingerprint: String, listeners: [any Channel], shared: IngressContext) {
        self.address = address
        self.fingerprint = fingerprint
        self.listeners = listeners
        self.shared = shared
    }

    /// Everybody on the host may connect, as to the TCP port: it is the token that opens a tunnel.
    private static func bindLocally(
        _ configuration: IngressConfiguration,
        _ identity: IngressIdentity,
        shared: IngressContext,
        group: any EventLoopGroup
    ) async throws -> (any Channel)? {
        guard let folder = configuration.handoverFolder else { return nil }
        let path = HandoverSocket.path(in: folder, fingerprint: identity.fingerprint)
        guard path.utf8.count <= HandoverSocket.pathBytesLimit else {
            throw IngressRefusal.internal(
                "the socket \(path) would have more than \(HandoverSocket.pathBytesLimit) bytes; name a shorter folder"
            )
        }
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let listener = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try initialize(channel, tls: nil, shared: shared) }
            }
            .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
        guard chmod(path, 0o666) == 0 else { throw IOError(errnoCode: errno, reason: "chmod \(path)") }
        return listener
    }

    private static func tlsContext(_ identity: IngressIdentity) throws -> NIOSSLContext {
        var tls = TLSConfiguration.makeServerConfiguration(
            certificateChain: [.certificate(identity.certificate)],
            privateKey: .privateKey(identity.key)
        )
        tls.minimumTLSVersion = .tlsv13
        return try NIOSSLContext(configuration: tls)
    }

    /// - Parameter tls: nil for a Unix socket.
    private static func initialize(_ channel: any Channel, tls: NIOSSLContext?, shared: IngressContext) throws {
        guard shared.roster.admit(channel, limit: shared.limits.connectionsLimit) else {
            throw IngressRefusal.tooManyTunnels(limit: shared.limits.connectionsLimit, scope: "to this runner")
        }
        channel.closeFuture.whenComplete { _ in shared.roster.leave(channel) }
        if let tls { try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls)) }
        try channel.pipeline.syncOperations.addHandler(IngressConnection(shared: shared, handsOver: tls == nil))
    }

    /// Open tunnels, for metrics and tests.
    package var openTunnels: Int { shared.roster.tunnels }

    /// Serves until graceful shutdown, then lets open tunnels end within the drain deadline. Cancellation closes at once.
    package func run() async throws {
        shared.log.info(
            "ingress listens",
            metadata: ["ingress.address": "\(address)", "ingress.tls": "\(fingerprint)"]
        )
        let graceful = await (try? gracefulShutdown()) != nil
        for listener in listeners { try? await listener.close() }
        if graceful { await drain() }
        for channel in shared.roster.channels { channel.close(mode: .all, promise: nil) }
        await shared.dialer.close()
    }

    private func drain() async {
        let deadline = NIODeadline.now() + shared.limits.drainDeadline
        while NIODeadline.now() < deadline, !shared.roster.channels.isEmpty, !Task.isCancelled {
            try? await Task.sleep(for: .milliseconds(50))
        }
    }
}
