import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// What anybody may ask: whether the API lives, whether it can work, and how it is set up.
struct ServiceRoutes: Sendable {
    let database: any PostgresClient
    let configuration: APIConfiguration

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/health", "health_controller_live", .open) { _ in try .json(HealthWire(status: "ok")) },
            APIRoute(.get, "/health/ready", "health_controller_check", .open, ready),
            APIRoute(.get, "/config", "config_controller_get_config", .open) { _ in
                try .json(ConfigurationWire(configuration))
            },
        ]
    }

    private func ready(_ call: Call) async throws -> Response {
        do {
            try await database.execute("SELECT 1", deadline: configuration.limits.readinessDeadline)
        } catch let error as PostgresError {
            throw APIError(.serviceUnavailable, "the database does not answer", cause: error)
        }
        let up = ["database": HealthWire(status: "up")]
        return try .json(ReadinessWire(status: "ok", info: up, error: [:], details: up))
    }
}

struct HealthWire: Encodable { var status: String }

/// `HealthControllerCheck200Response`.
struct ReadinessWire: Encodable {
    var status: String
    var info: [String: HealthWire]
    var error: [String: HealthWire]
    var details: [String: HealthWire]
}

/// `DaytonaConfiguration`: every required field must be there, or the SDK's metrics fail.
struct ConfigurationWire: Encodable {
    struct OIDC: Encodable {
        var issuer = ""
        var clientId = ""
        var audience = ""
        var provider = "none"
    }

    var version: String
    var oidc = OIDC()
    var linkedAccountsEnabled = false
    var announcements: [String: String] = [:]
    var proxyTemplateUrl: String
    var proxyToolboxUrl: String
    var defaultSnapshot: String
    var dashboardUrl: String
    var maxAutoArchiveInterval = SandboxRules.autoArchiveMinutesLimit
    /// The published client spells it so.
    var maintananceMode = false
    var environment = "self-hosted"

    init(_ configuration: APIConfiguration) {
        version = configuration.version
        proxyTemplateUrl = configuration.previewURLTemplate
        proxyToolboxUrl = configuration.toolboxProxyURL
        defaultSnapshot = configuration.defaultSnapshot
        dashboardUrl = configuration.dashboardURL
    }
}
