package import Domain
package import FoundationEssentials

/// The way to one sandbox, as the view `route` gives it: a row there means that a runner holds the sandbox.
package struct Route: Sendable, Hashable {
    package var sandbox: SandboxID
    package var organization: OrganizationID
    package var runner: RunnerID
    /// Fencing token of the placement; the runner's ingress refuses any other.
    package var epoch: Int
    /// The public state, computed by the database.
    package var state: String
    /// Whether previews need no credential. The toolbox always does.
    package var isPublic: Bool
    /// What the daemon wants in `X-Martlet-Token`.
    package var toolboxToken: String
    /// Key of signed file URLs, used as its UTF-8 bytes.
    package var signingKey: String
    /// `host:port` of the runner's ingress.
    package var ingressAddress: String
    /// Lower-case hexadecimal SHA-256 of the ingress certificate.
    package var tlsFingerprint: String
    /// Key of the tokens that the ingress accepts.
    package var ingressSecret: [UInt8]

    package init(
        sandbox: SandboxID,
        organization: OrganizationID,
        runner: RunnerID,
        epoch: Int,
        state: String,
        isPublic: Bool,
        toolboxToken: String,
        signingKey: String,
        ingressAddress: String,
        tlsFingerprint: String,
        ingressSecret: [UInt8]
    ) {
        self.sandbox = sandbox
        self.organization = organization
        self.runner = runner
        self.epoch = epoch
        self.state = state
        self.isPublic = isPublic
        self.toolboxToken = toolboxToken
        self.signingKey = signingKey
        self.ingressAddress = ingressAddress
        self.tlsFingerprint = tlsFingerprint
        self.ingressSecret = ingressSecret
    }
}

/// What an API key allows, as `authorize_api_key` answers.
package struct KeyGrant: Sendable, Hashable {
    package var organization: OrganizationID
    /// nil: never.
    package var expiresAt: Date?

    package init(organization: OrganizationID, expiresAt: Date?) {
        self.organization = organization
        self.expiresAt = expiresAt
    }
}

/// The first eight bytes of an API key's hash: enough to find the key in a cache, too little to be of use to whoever hears it.
package struct KeyTag: Sendable, Hashable {
    private let value: UInt64

    /// Reads sixteen hexadecimal digits; nil for anything else.
    package init?(hexadecimal text: some StringProtocol) {
        guard text.utf8.count == 16, let value = UInt64(text, radix: 16), !text.hasPrefix("+") else { return nil }
        self.value = value
    }

    /// The tag of a hash that begins with these eight bytes, the first of them the highest.
    package init(beginning value: UInt64) { self.value = value }

    /// The tag of a hash, which has eight bytes at least.
    package init(of hash: some Sequence<UInt8>) {
        value = hash.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }
}

/// One message of channel `route`: what a cache must forget.
package enum RouteChange: Sendable, Hashable {
    case sandbox(SandboxID)
    case runner(RunnerID)
    case organization(OrganizationID)
    case key(KeyTag)
    /// Messages may have been lost: everything must be forgotten.
    case resync

    /// Parses a notification's payload. What is not understood means resync: forgetting too much is only slower.
    package init(payload: String) {
        let parts = payload.split(separator: ":", maxSplits: 1)
        guard parts.count == 2 else {
            self = .resync
            return
        }
        let change: RouteChange? =
            switch parts[0] {
            case "sandbox": SandboxID(parts[1]).map { .sandbox($0) }
            case "runner": RunnerID(parts[1]).map { .runner($0) }
            case "organization": OrganizationID(parts[1]).map { .organization($0) }
            case "key": KeyTag(hexadecimal: parts[1].prefix(16)).map { .key($0) }
            default: nil
            }
        self = change ?? .resync
    }
}

/// Where signs of use are written.
package protocol ActivitySink: Sendable {
    /// Notes that these sandboxes are in use now. One statement, whatever their number.
    func reportActivity(of sandboxes: [SandboxID]) async throws
}

/// Where a proxy gets routes from.
package protocol RouteSource: ActivitySink {
    /// The route of `sandbox`, or nil where no runner holds it.
    func route(of sandbox: SandboxID) async throws -> Route?

    /// What the key with this SHA-256 allows now, or nil where it allows nothing.
    func grant(keyHash: [UInt8]) async throws -> KeyGrant?

    /// Calls `handle` for each change, `.resync` first and after every loss, until the task is cancelled.
    func followChanges(_ handle: @Sendable (RouteChange) -> Void) async throws
}
