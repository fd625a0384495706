import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// Tokens that let into a sandbox through the SSH gateway. There is one for each sandbox: a new one takes the old one's place.
struct SSHAccessRoutes: Sendable {
    private static let defaultMinutes = 60
    /// 30 days.
    private static let minutesLimit = 43_200

    let sandboxes: SandboxService
    let configuration: APIConfiguration

    private var database: any PostgresClient { sandboxes.database }

    var routes: [APIRoute] {
        [
            APIRoute(.post, "/sandbox/{id}/ssh-access", "create_ssh_access", .permission(.writeSandboxes), create),
            APIRoute(.delete, "/sandbox/{id}/ssh-access", "revoke_ssh_access", .permission(.writeSandboxes), revoke),
            APIRoute(.get, "/sandbox/ssh-access/validate", "validate_ssh_access", .key, validate),
        ]
    }

    private func create(_ call: Call) async throws -> Response {
        var query = QueryReader(call.query)
        let minutes = query.integer("expiresInMinutes", in: 1...Self.minutesLimit) ?? Self.defaultMinutes
        try query.finish()
        let caller = try call.caller
        let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
        let token = SSHToken.random()
        let access = try await database.sshAccess.grant(
            token,
            to: sandbox.id,
            in: caller.organization,
            minutes: minutes,
            by: caller.actor
        )
        guard let access else { throw LifecycleDecision.beingDestroyed(sandbox) }
        return try .json(SSHAccessWire(access, token: token, command: configuration.sshGateway.command(for: token)))
    }

    /// Answers the sandbox, whether the token was one of its or not: afterwards it is none in both cases.
    private func revoke(_ call: Call) async throws -> Response {
        let caller = try call.caller
        let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
        let revoke = { (hash: [UInt8]?) in
            try await database.sshAccess.revoke(hash, of: sandbox.id, in: caller.organization, by: caller.actor)
        }
        switch call.query["token"] {
        case nil: try await revoke(nil)
        case "": throw APIError.badRequest("token is empty; leave it out to revoke whatever there is")
        // What cannot be a token lets nobody in as it is.
        case let text?: if let token = SSHToken(text) { try await revoke(token.hash) }
        }
        return try .json(SandboxWire(sandbox, toolboxProxyURL: configuration.toolboxProxyURL))
    }

    private func validate(_ call: Call) async throws -> Response {
        guard let text = call.query["token"], !text.isEmpty else {
            throw APIError.badRequest("token is missing; give the one that create_ssh_access answered")
        }
        var found: String?
        if let token = SSHToken(text) {
            let organization = try call.caller.organization
            found = try await database.sshAccess.sandbox(for: token.hash, in: organization)?.description
        }
        return try .json(SSHAccessValidationWire(valid: found != nil, sandboxId: found ?? ""))
    }
}

/// `SshAccessDto`: the only answer that carries the token.
struct SSHAccessWire: Encodable {
    var id: String
    var sandboxId: String
    var token: String
    var expiresAt: Date
    var createdAt: Date
    var updatedAt: Date
    var sshCommand: String

    init(_ access: SSHAccessRecord, token: SSHToken, command: String) {
        id = access.id.description
        sandboxId = access.sandboxID.description
        self.token = token.text
        expiresAt = access.expiresAt
        createdAt = access.createdAt
        updatedAt = access.updatedAt
        sshCommand = command
    }
}

/// `SshAccessValidationDto`. The clients take no null.
struct SSHAccessValidationWire: Encodable {
    var valid: Bool
    var sandboxId: String
}
