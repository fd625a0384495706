import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Limiting
package import Logging
import NIOCore
import NIOSSL
package import Postgres
package import ServiceLifecycle
import Store

/// What an API process works with.
package struct APIDependencies: Sendable {
    /// Connections as a login of `martlet_api`. Whoever made it runs it.
    package var database: PostgresPool
    /// Where the change feed listens: the same login.
    package var databaseConfiguration: PostgresConfiguration
    package var logger: Logger

    package init(database: PostgresPool, databaseConfiguration: PostgresConfiguration, logger: Logger) {
        self.database = database
        self.databaseConfiguration = databaseConfiguration
        self.logger = logger
    }
}

/// An API, put together and not yet running.
package struct ComposedAPI: Sendable {
    /// To run in this order in one group: the feed, what works in the background, and HTTP last, so that it stops first.
    package let services: [any Service]
    /// Every operation there is, for tests that go through all of them.
    let routes: [APIRoute]
    /// For tests that wait until notifications arrive.
    let feed: ChangeFeed
}

/// Puts an API together; the one place where this is done, for main and for tests.
///
/// - Parameter onServerRunning: called with the port once requests are taken.
/// Throws where the TLS certificate or its key cannot be read.
package func buildAPI(
    _ configuration: APIConfiguration,
    _ dependencies: APIDependencies,
    onServerRunning: @escaping @Sendable (_ port: Int) async -> Void = { _ in },
    onTLSServerRunning: @escaping @Sendable (_ port: Int) async -> Void = { _ in }
) throws -> ComposedAPI {
    let (database, limits, logger) = (dependencies.database, configuration.limits, dependencies.logger)
    let cache = KeyCache(limits: limits)
    let feed = ChangeFeed(dependencies.databaseConfiguration, logger: logger) { cache.heed($0) }
    let uses = KeyUseRecorder(database: database, limits: limits, logger: logger)
    let failures = FailedAttempts(limit: limits.failedAuthenticationLimit, window: limits.failedAuthenticationWindow)
    let authenticator = Authenticator(database: database, cache: cache, feed: feed, failures: failures, uses: uses)
    let sandboxes = SandboxService(database: database, feed: feed, limits: limits)
    let routes =
        SandboxRoutes(sandboxes: sandboxes, configuration: configuration).routes
        + SSHAccessRoutes(sandboxes: sandboxes, configuration: configuration).routes
        + APIKeyRoutes(database: database, cache: cache).routes + OrganizationRoutes(database: database).routes
        + SnapshotRoutes(database: database).routes
        + BuildLogRoutes(sandboxes: sandboxes, configuration: configuration).routes
        + StorageRoutes(database: database, failures: failures, configuration: configuration).routes
        + VolumeRoutes(database: database, limits: limits).routes
        + RegistryRoutes(database: database, secrets: configuration.secrets).routes
        + ServiceRoutes(database: database, configuration: configuration).routes + UnsupportedRoutes.routes
    let addresses = PlaceCounts<Place>(limit: limits.connectionsPerAddressLimit)
    let responder = APIResponder(routes: RouteTable(routes), authenticator: authenticator, limits: limits)
    let plain = HTTPServerBuilder { ClientChannel(responder: $0, limits: limits, addresses: addresses) }
    let server = Application(
        responder: responder,
        server: plain,
        configuration: .init(
            address: .hostname(configuration.host, port: configuration.port),
            backlog: 1024,
            availableConnectionsDelegate: MaximumAvailableConnections(limits.connectionLimit)
        ),
        onServerRunning: { channel in await onServerRunning(channel.localAddress?.port ?? configuration.port) },
        logger: logger
    )
    let secured = try configuration.tls.map { tls in
        Application(
            responder: responder,
            server: try .tls(plain, tlsConfiguration: try tls.settings),
            configuration: .init(
                address: .hostname(tls.host, port: tls.port),
                backlog: 1024,
                availableConnectionsDelegate: MaximumAvailableConnections(limits.connectionLimit)
            ),
            onServerRunning: { channel in await onTLSServerRunning(channel.localAddress?.port ?? tls.port) },
            logger: logger
        )
    }
    let housekeeper = Housekeeper(database: database, interval: limits.housekeepingInterval, logger: logger)
    let servers: [any Service] = [server] + (secured.map { [$0] } ?? [])
    return ComposedAPI(services: [feed, uses, housekeeper] + servers, routes: routes, feed: feed)
}

extension TLSListener {
    fileprivate var settings: TLSConfiguration {
        get throws {
            let chain = try NIOSSLCertificate.fromPEMFile(certificatePath)
            let key = try NIOSSLPrivateKey(file: keyPath, format: .pem)
            return .makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) },
                privateKey: .privateKey(key)
            )
        }
    }
}
