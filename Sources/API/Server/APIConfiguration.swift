package import Store

/// What an operator decides about an API process.
package struct APIConfiguration: Sendable {
    package var host: String
    /// 0 lets the system choose.
    package var port: Int
    /// What toolbox calls begin with, without the sandbox's id and without a slash at the end: `http://host:4000/toolbox`.
    package var toolboxProxyURL: String
    /// Where previews will be: `http://{{PORT}}-{{sandboxId}}.localhost:4000`.
    package var previewURLTemplate: String
    package var dashboardURL: String
    /// Where clients reach this API, without a slash at the end; nil for whatever host they ask.
    package var publicURL: String?
    /// Where clients upload the files of builds: https, with a certificate that their machines trust. Ends in `/api/storage` of
    /// any API. Nil where there is none.
    package var storageURL: String?
    /// The same interface over TLS, on a port of its own; nil for none.
    package var tls: TLSListener?
    /// Where users reach the SSH gateway.
    package var sshGateway: SSHGatewayAddress
    /// The region for a create without `target`, where the organization has no default; nil takes the oldest.
    package var defaultRegion: String?
    /// The snapshot for a create that names none.
    package var defaultSnapshot: String
    package var version: String
    /// Seals the passwords of registries; nil takes none.
    package var secrets: SecretBox?
    package var limits = APILimits()

    package init(
        host: String = "127.0.0.1",
        port: Int = 3000,
        toolboxProxyURL: String,
        previewURLTemplate: String = "",
        dashboardURL: String = "",
        sshGateway: SSHGatewayAddress = SSHGatewayAddress(host: "127.0.0.1", port: 3989),
        defaultRegion: String? = nil,
        defaultSnapshot: String = "default",
        version: String = "0.1.0"
    ) {
        self.host = host
        self.port = port
        self.toolboxProxyURL = toolboxProxyURL
        self.previewURLTemplate = previewURLTemplate
        self.dashboardURL = dashboardURL
        self.sshGateway = sshGateway
        self.defaultRegion = defaultRegion
        self.defaultSnapshot = defaultSnapshot
        self.version = version
    }
}

/// A port that speaks TLS.
package struct TLSListener: Sendable {
    package var host: String
    package var port: Int
    /// Files in PEM: the certificate with its chain, and its key.
    package var certificatePath: String
    package var keyPath: String

    package init(host: String, port: Int, certificatePath: String, keyPath: String) {
        self.host = host
        self.port = port
        self.certificatePath = certificatePath
        self.keyPath = keyPath
    }
}

/// Where users reach the SSH gateway.
package struct SSHGatewayAddress: Sendable {
    package var host: String
    package var port: Int

    package init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// What the holder of a token types; the port only where it is not SSH's own.
    func command(for token: SSHToken) -> String {
        port == 22 ? "ssh \(token.text)@\(host)" : "ssh -p \(port) \(token.text)@\(host)"
    }
}

/// The limits of an API process, each with its name.
package struct APILimits: Sendable {
    /// How long `POST /sandbox` may wait for `started` before it answers with what is there. The SDK waits 60 s.
    package var createHold: Duration = .seconds(10)
    /// The same for start, stop, recover and resize.
    package var changeHold: Duration = .seconds(2)
    /// How long `POST /volumes` may wait for `ready`; as a rule it takes a tenth of a second.
    package var volumeHold: Duration = .seconds(5)
    package var volumePollInterval: Duration = .milliseconds(50)
    /// How often a held request looks at the row although nothing woke it.
    package var holdPollInterval: Duration = .milliseconds(500)
    /// The largest request body.
    package var bodyByteLimit = 1 << 20
    /// How long a body may take to arrive, and to be thrown away after an answer that did not wait for it.
    package var bodyDeadline: Duration = .seconds(30)
    /// The largest set of request headers.
    package var headerByteLimit = 32 << 10
    /// From a request's first byte to the end of its head; for a new connection from accept.
    package var headDeadline: Duration = .seconds(30)
    /// How many connections may be open.
    package var connectionLimit = 8192
    /// How many of them one IP address may have; more are closed at once.
    package var connectionsPerAddressLimit = 2048
    /// How long a connection may be idle.
    package var idleLimit: Duration = .seconds(120)
    /// How many failed authentications one address has within `failedAuthenticationWindow` before it gets 429.
    package var failedAuthenticationLimit = 60
    package var failedAuthenticationWindow: Duration = .seconds(60)
    /// How long a key's authorization is believed without asking again, notifications apart.
    package var keyCacheLifetime: Duration = .seconds(30)
    package var keyCacheLimit = 10_000
    /// How long `/health/ready` waits for the database.
    package var readinessDeadline: Duration = .seconds(2)
    /// The largest part of a build context, and how long it may take to arrive; the SDK sends 5 MiB within two minutes.
    package var partByteLimit = 8 << 20
    package var partDeadline: Duration = .seconds(120)
    /// How many parts are in memory at a time, in all and of one organization.
    package var partsAtOnceLimit = 24
    package var organizationPartsAtOnceLimit = 8
    /// How many uploads of an organization may be under way.
    package var uploadsLimit = 64
    package var contexts = ContextLimits()
    /// How many clients may follow the logs of builds; more get a log as it is.
    package var logFollowersLimit = 256
    /// For how long. A build itself has an hour.
    package var logFollowLimit: Duration = .seconds(2 * 3600)
    package var logPollInterval: Duration = .milliseconds(300)
    package var housekeepingInterval: Duration = .seconds(10)
    package var keyUseInterval: Duration = .seconds(10)

    package init() {}
}
