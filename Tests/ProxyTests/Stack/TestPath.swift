import Crypto
import Domain
import Foundation
import Logging
import NIOCore
import NIOPosix
import Proxy
import Runner
import ServiceLifecycle
import Store
import Synchronization
import Testing

typealias Arrival = NIOAsyncChannel<ByteBuffer, ByteBuffer>

/// The whole way: proxy, TLS, ingress, namespace, and a server in there that the test writes by hand.
struct TestPath: Sendable {
    let proxy: SocketAddress
    let ingress: SocketAddress
    let fingerprint: String
    /// Where the runner would hand connections over.
    let handoverSocket: String
    let routes: TestRoutes
    let sandboxes: TestSandboxes
    let sandbox: SandboxID
    let organization: OrganizationID
    let key = "mrt_" + String(repeating: "k", count: 43)
    let secret: [UInt8]
    let ingressServer: IngressServer
    let proxyService: ProxyService
    let proxyGroup: ServiceGroup
    let ingressGroup: ServiceGroup
    let arrivals: AsyncStream<Arrival>

    /// `GET /toolbox/<id><path>` and its fields, ready to send.
    func request(_ method: String = "GET", _ path: String, fields: String = "", body: String = "") -> String {
        "\(method) /toolbox/\(sandbox)\(path) HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer \(key)\r\n\(fields)\r\n\(body)"
    }

    /// Sends one request over a connection of its own and answers the response.
    func fetch(_ request: String) async throws -> Message {
        try await Wire.connect(to: proxy) { wire in
            try await wire.send(request)
            return try await wire.readMessage()
        }
    }

    /// The next connection that arrives in the sandbox.
    func serve<Value: Sendable>(_ body: @Sendable (Wire) async throws -> Value) async throws -> Value {
        var iterator = arrivals.makeAsyncIterator()
        guard let channel = await iterator.next() else { throw TestFailure("no connection arrived") }
        return try await Wire.use(channel, body)
    }

    /// Runs client and server side at the same time.
    func run<Value: Sendable>(
        server: @escaping @Sendable (Wire) async throws -> Void,
        client: @Sendable (Wire) async throws -> Value
    ) async throws -> Value {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await serve(server) }
            let value = try await Wire.connect(to: proxy, client)
            try await group.waitForAll()
            try await eventually("tunnels closed") { ingressServer.openTunnels == 0 }
            return value
        }
    }

    /// Changes the route as the database would, without saying so.
    func updateRoute(_ change: (inout Route) -> Void) {
        routes.state.withLock { state in
            if var route = state.routes[sandbox] {
                change(&route)
                state.routes[sandbox] = route
            }
        }
    }
}

/// What the runner would know.
final class TestSandboxes: SandboxDialing {
    let targets = Mutex<[SandboxID: (target: SandboxTarget, epoch: Int)]>([:])

    func target(of sandbox: SandboxID, epoch: Int) async throws -> SandboxTarget {
        try targets.withLock { targets in
            guard let known = targets[sandbox] else { throw IngressRefusal.notHere(sandbox) }
            guard known.epoch == epoch else {
                throw IngressRefusal.staleEpoch(sandbox, asked: epoch, held: known.epoch)
            }
            return known.target
        }
    }
}

extension TestPath {
    /// Whether proxy and runner meet at a Unix socket.
    enum Handover {
        case none, soughtInVain
        /// And nothing else leads to the runner.
        case needed

        /// For what must be the same whichever way it goes.
        static let bothWays = [none, needed]
    }

    /// Builds everything, runs `body`, and takes it down.
    static func with(
        proxyLimits: ProxyLimits = ProxyLimits(),
        ingressLimits: IngressLimits = IngressLimits(),
        handover: Handover = .none,
        backlog: Int32 = 512,
        _ body: @Sendable (TestPath) async throws -> Void
    ) async throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "martlet-proxy-\(UUID())").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        // A socket's path has 107 bytes at most, so not below a temporary folder of any length.
        let meetingPlace = "/tmp/martlet-\(UInt32.random(in: .min ... .max))"
        defer { for folder in [directory, meetingPlace] { try? FileManager.default.removeItem(atPath: folder) } }
        let namespace = try TestNamespace()
        let (server, arrivals, arriving) = try await listen(in: namespace, backlog: backlog)

        let sandboxes = TestSandboxes()
        let secret = (0..<32).map { _ in UInt8.random(in: .min ... .max) }
        var ingressConfiguration = IngressConfiguration(host: "127.0.0.1", port: 0, secret: secret)
        ingressConfiguration.limits = ingressLimits
        ingressConfiguration.handoverFolder = handover == .needed ? meetingPlace : nil
        let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let ingress = try await IngressServer.bind(
            ingressConfiguration,
            identity: .load(from: directory),
            dialing: sandboxes,
            log: log
        )
        let routes = TestRoutes()
        var proxyConfiguration = ProxyConfiguration(host: "127.0.0.1", port: 0)
        proxyConfiguration.limits = proxyLimits
        proxyConfiguration.handoverFolder = handover == .none ? nil : meetingPlace
        let proxy = try await ProxyService.bind(proxyConfiguration, source: routes, log: log)

        let path = TestPath(
            proxy: proxy.address,
            ingress: ingress.address,
            fingerprint: ingress.fingerprint,
            handoverSocket: HandoverSocket.path(in: meetingPlace, fingerprint: ingress.fingerprint),
            routes: routes,
            sandboxes: sandboxes,
            sandbox: .random(),
            organization: .random(),
            secret: secret,
            ingressServer: ingress,
            proxyService: proxy,
            proxyGroup: ServiceGroup(services: [proxy], logger: log),
            ingressGroup: ServiceGroup(services: [ingress], logger: log),
            arrivals: arrivals
        )
        sandboxes.targets.withLock { $0[path.sandbox] = (namespace.target, 1) }
        path.register()
        if handover == .needed { path.updateRoute { $0.ingressAddress = "127.0.0.1:1" } }
        let outcome = await result { try await path.runServices(body) }
        arriving.finish()
        for await leftover in arrivals { try? await leftover.executeThenClose { _, _ in } }
        try await server.close()
        withExtendedLifetime(namespace) {}
        try outcome.get()
    }

    private static func result(_ body: () async throws -> Void) async -> Result<Void, any Error> {
        do { return .success(try await body()) } catch { return .failure(error) }
    }

    private func runServices(_ body: @Sendable (TestPath) async throws -> Void) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await proxyGroup.run() }
            group.addTask { try await ingressGroup.run() }
            try await body(self)
            group.cancelAll()
        }
    }

    /// The rows: one started sandbox, one key of its organization.
    private func register() {
        routes.state.withLock { state in
            state.grants[Array(SHA256.hash(data: Array(key.utf8)))] = KeyGrant(
                organization: organization,
                expiresAt: nil
            )
            state.routes[sandbox] = Route(
                sandbox: sandbox,
                organization: organization,
                runner: .random(),
                epoch: 1,
                state: "started",
                isPublic: false,
                toolboxToken: "t0ken",
                signingKey: "signing-key",
                ingressAddress: "127.0.0.1:\(ingress.port!)",
                tlsFingerprint: fingerprint,
                ingressSecret: secret
            )
        }
    }

    private static func listen(
        in namespace: TestNamespace,
        backlog: Int32
    ) async throws -> (any Channel, AsyncStream<Arrival>, AsyncStream<Arrival>.Continuation) {
        let (arrivals, arriving) = AsyncStream<Arrival>.makeStream()
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let arrival = try Wire.wrap(channel)
                    // One that comes after the test's end still wants an owner that finishes it.
                    guard case .terminated = arriving.yield(arrival) else { return }
                    Task { try? await arrival.executeThenClose { _, _ in } }
                }
            }
            .withBoundSocket(try namespace.listen(on: 2280, backlog: backlog)).get()
        return (server, arrivals, arriving)
    }
}
