package import Domain
package import Logging
package import Postgres

/// Routes from the database, as role `martlet_proxy` may read them.
package struct DatabaseRouteSource: RouteSource {
    private let client: any PostgresClient
    private let configuration: PostgresConfiguration
    private let log: Logger

    /// - Parameters:
    ///   - client: runs the queries.
    ///   - configuration: how the connection that listens is made; it is not one of the pool's.
    package init(_ client: any PostgresClient, listeningWith configuration: PostgresConfiguration, log: Logger) {
        self.client = client
        self.configuration = configuration
        self.log = log
    }

    package func route(of sandbox: SandboxID) async throws -> Route? {
        let row = try await client.queryFirst(
            """
            SELECT sandbox_id, organization_id, runner_id, epoch, state, public, toolbox_token, signing_key,
                ingress_address, tls_fingerprint, ingress_secret
            FROM route WHERE sandbox_id = \(sandbox)
            """
        )
        return try row.map(Route.init(row:))
    }

    package func grant(keyHash: [UInt8]) async throws -> KeyGrant? {
        let row = try await client.queryFirst(
            "SELECT organization_id, expires_at FROM authorize_api_key(\(keyHash))"
        )
        return try row.map {
            KeyGrant(organization: try $0.decode("organization_id"), expiresAt: try $0.decode("expires_at"))
        }
    }

    package func reportActivity(of sandboxes: [SandboxID]) async throws {
        try await client.execute("SELECT report_activity(\(sandboxes))")
    }

    package func followChanges(_ handle: @Sendable (RouteChange) -> Void) async throws {
        let listener = PostgresListener(configuration, channels: ["route"], logger: log)
        await withTaskGroup { group in
            group.addTask { await listener.run() }
            for await event in listener.events {
                switch event {
                case .resync: handle(.resync)
                case .notification(_, let payload): handle(RouteChange(payload: payload))
                }
            }
            group.cancelAll()
        }
    }
}

extension Route {
    fileprivate init(row: Row) throws {
        self.init(
            sandbox: try row.decode("sandbox_id"),
            organization: try row.decode("organization_id"),
            runner: try row.decode("runner_id"),
            epoch: try row.decode("epoch"),
            state: try row.decode("state"),
            isPublic: try row.decode("public"),
            toolboxToken: try row.decode("toolbox_token"),
            signingKey: try row.decode("signing_key"),
            ingressAddress: try row.decode("ingress_address"),
            tlsFingerprint: try row.decode("tls_fingerprint"),
            ingressSecret: try row.decode("ingress_secret")
        )
    }
}
