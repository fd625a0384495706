import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// Keys of the caller's user in the caller's organization.
struct APIKeyRoutes: Sendable {
    private static let nameLimit = 128

    let database: any PostgresClient
    let cache: KeyCache

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/api-keys", "list_api_keys", .key) { call in
                let caller = try call.caller
                let keys = try await database.apiKeys.list(in: caller.organization, of: caller.user)
                return try .json(keys.map(APIKeyWire.init))
            },
            APIRoute(.post, "/api-keys", "create_api_key", .key, create),
            APIRoute(.get, "/api-keys/current", "get_current_api_key", .key) { call in
                try .json(APIKeyWire(try call.caller.key))
            },
            APIRoute(.get, "/api-keys/{name}", "get_api_key", .key) { call in
                let (caller, name) = (try call.caller, call.parameter("name"))
                let key = try await database.apiKeys.find(named: name, in: caller.organization, of: caller.user)
                guard let key else { throw Self.notFound(name) }
                return try .json(APIKeyWire(key))
            },
            APIRoute(.delete, "/api-keys/{name}", "delete_api_key", .key) { call in
                try await delete(call.parameter("name"), of: try call.caller.user, by: try call.caller)
            },
            APIRoute(.delete, "/api-keys/{userId}/{name}", "delete_api_key_for_user", .key, deleteForUser),
        ]
    }

    private static func notFound(_ name: String) -> APIError {
        .notFound("there is no API key with the name '\(name.shortened)'")
    }

    private func create(_ call: Call) async throws -> Response {
        let caller = try call.caller
        let wanted = try NewAPIKeyWire(try await call.object(), by: caller)
        let secret = APIKeySecret.random()
        do {
            let key = try await database.apiKeys.insert(
                organization: caller.organization,
                user: caller.user,
                name: wanted.name,
                secret: secret,
                permissions: wanted.permissions,
                expiresAt: wanted.expiresAt
            )
            return try .json(NewAPIKeyAnswerWire(key, secret: secret), status: .created)
        } catch let error as PostgresError where error.constraint == "api_key_name_is_unique" {
            throw APIError.conflict(
                "an API key with the name '\(wanted.name.shortened)' exists already. Choose another name"
            )
        }
    }

    /// A key may revoke itself, and others that can do no more than it: a leaked one cannot end the keys of administrators.
    private func delete(_ name: String, of user: UserID, by caller: Caller) async throws -> Response {
        guard let key = try await database.apiKeys.find(named: name, in: caller.organization, of: user) else {
            throw Self.notFound(name)
        }
        let beyond = caller.permissions.missing(of: PermissionSet(key.permissions))
        guard key.id == caller.key.id || beyond.isEmpty else {
            throw APIError.forbidden(
                "the API key '\(name.shortened)' may do what this one may not (\(beyond.joined(separator: ", "))), "
                    + "so it can be revoked only with one that may"
            )
        }
        // By its id: another key that gets the name meanwhile was not judged.
        guard let hash = try await database.apiKeys.delete(key.id) else {
            throw Self.notFound(name)
        }
        cache.forget(KeyTag(of: hash))
        return .empty(.noContent)
    }

    private func deleteForUser(_ call: Call) async throws -> Response {
        let (caller, name) = (try call.caller, call.parameter("name"))
        guard let user = UserID(call.parameter("userId")) else { throw Self.notFound(name) }
        if user != caller.user {
            let isOwner = try await database.organizations.isOwner(caller.user, of: caller.organization)
            guard isOwner else {
                throw APIError.forbidden("only an owner of the organization may revoke the keys of others")
            }
        }
        return try await delete(name, of: user, by: caller)
    }
}

/// A key as lists show it; its secret is known to nobody any more.
struct APIKeyWire: Encodable {
    var name: String
    var value: String
    var createdAt: Date
    var permissions: [String]
    var lastUsedAt: Date?
    var expiresAt: Date?
    var userId: String
    var organizationId: String

    init(_ key: APIKeyRecord) {
        name = key.name
        value = "\(key.prefix)********\(key.suffix)"
        createdAt = key.createdAt
        permissions = PermissionSet(key.permissions).names
        lastUsedAt = key.lastUsedAt
        expiresAt = key.expiresAt
        userId = key.userID.description
        organizationId = key.organizationID.description
    }
}

/// The only answer that carries the secret.
struct NewAPIKeyAnswerWire: Encodable {
    var name: String
    var value: String
    var createdAt: Date
    var permissions: [String]
    var expiresAt: Date?

    init(_ key: APIKeyRecord, secret: APIKeySecret) {
        name = key.name
        value = secret.text
        createdAt = key.createdAt
        permissions = PermissionSet(key.permissions).names
        expiresAt = key.expiresAt
    }
}

/// The body of `POST /api-keys`, judged.
struct NewAPIKeyWire: Sendable {
    private static let nameLimit = 128

    var name: String
    var permissions: [String]
    var expiresAt: Date?

    /// Throws 400 that names every bad field, or 403 where the new key would do more than the one that asks.
    init(_ body: [String: JSONValue], by caller: Caller) throws {
        var fields = FieldReader(body)
        name = fields.string("name", limit: 4 * Self.nameLimit) ?? ""
        if name.isEmpty || name.count > Self.nameLimit {
            fields.complain("name has \(name.count) characters, but must have 1 to \(Self.nameLimit)")
        }
        permissions = fields.list("permissions", limit: 64) ?? []
        for permission in permissions
        where Permission(rawValue: permission) == nil && permission != PermissionSet.everything {
            let known = Permission.allCases.map(\.rawValue).joined(separator: ", ")
            fields.complain("permissions: '\(permission.shortened)' is none of \(known)")
        }
        if let text = fields.string("expiresAt") {
            expiresAt = Timestamp.date(text)
            if expiresAt == nil {
                fields.complain("expiresAt is '\(text.shortened)', but must be a time as in 2026-01-01T00:00:00Z")
            }
            if let expiresAt, expiresAt <= Date() { fields.complain("expiresAt is '\(text.shortened)', which is past") }
        }
        if let end = caller.key.expiresAt, expiresAt.map({ $0 > end }) ?? true {
            fields.complain(
                "expiresAt must be \(Timestamp.text(end)) at the latest, when the key that asks expires itself"
            )
        }
        try fields.finish()
        let beyond = caller.permissions.missing(of: PermissionSet(permissions))
        guard beyond.isEmpty else {
            throw APIError.forbidden(
                "a key cannot give what it has not: this one lacks \(beyond.joined(separator: ", "))"
            )
        }
    }
}
