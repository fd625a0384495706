package import Domain
package import Logging
package import Postgres

/// Admissions from the database, as role `martlet_ssh_gateway` may ask for them.
package struct DatabaseSSHAccess: SSHAccessSource {
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

    package func admission(tokenHash: [UInt8]) async throws -> SSHAdmission? {
        try await client.queryFirst(
            """
            SELECT access_id, sandbox_id, organization_id, milliseconds_left, state, runner_id, epoch, toolbox_token,
                ingress_address, tls_fingerprint, ingress_secret
            FROM admit_ssh(\(tokenHash))
            """
        ).map(SSHAdmission.init(row:))
    }

    package func reportActivity(of sandboxes: [SandboxID]) async throws {
        try await client.execute("SELECT report_activity(\(sandboxes))")
    }

    package func followChanges(_ handle: @Sendable (SSHAccessChange) -> Void) async throws {
        let listener = PostgresListener(configuration, channels: ["ssh_access", "route"], logger: log)
        await withTaskGroup { group in
            group.addTask { await listener.run() }
            for await event in listener.events {
                switch event {
                case .resync: handle(.resync)
                case .notification("ssh_access", let payload):
                    handle(SSHAccessID(payload).map { .access($0) } ?? .resync)
                case .notification(_, let payload): SSHAccessChange(route: RouteChange(payload: payload)).map(handle)
                }
            }
            group.cancelAll()
        }
    }
}

extension SSHAccessChange {
    /// What a change of routes means for who was admitted; nil where it means nothing. An API key that is revoked ends no
    /// session that it opened, and a runner that cannot be reached may yet run what it holds.
    init?(route change: RouteChange) {
        switch change {
        case .sandbox(let id): self = .sandbox(id)
        case .organization(let id): self = .organization(id)
        case .resync: self = .resync
        case .runner, .key: return nil
        }
    }
}

extension SSHAdmission {
    fileprivate init(row: Row) throws {
        let (sandbox, organization): (SandboxID, OrganizationID) = (
            try row.decode("sandbox_id"), try row.decode("organization_id")
        )
        let left: Int = try row.decode("milliseconds_left")
        let state: PublicState = try row.decode("state")
        self.init(
            access: try row.decode("access_id"),
            sandbox: sandbox,
            organization: organization,
            timeLeft: .milliseconds(left),
            state: state,
            route: try Self.route(row, sandbox, organization, state)
        )
    }

    private static func route(
        _ row: Row,
        _ sandbox: SandboxID,
        _ organization: OrganizationID,
        _ state: PublicState
    ) throws -> Route? {
        guard let address: String = try row.decode("ingress_address") else { return nil }
        return Route(
            sandbox: sandbox,
            organization: organization,
            runner: try row.decode("runner_id"),
            epoch: try row.decode("epoch"),
            state: state.rawValue,
            isPublic: false,
            toolboxToken: try row.decode("toolbox_token"),
            signingKey: "",
            ingressAddress: address,
            tlsFingerprint: try row.decode("tls_fingerprint"),
            ingressSecret: try row.decode("ingress_secret")
        )
    }
}
