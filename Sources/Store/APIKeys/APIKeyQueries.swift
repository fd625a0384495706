package import Domain
package import FoundationEssentials
package import Postgres

/// A credential as it may be shown: one row of `api_key` without its hash.
package struct APIKeyRecord: Sendable, Identifiable {
    package let id: APIKeyID
    package let organizationID: OrganizationID
    package let userID: UserID
    package let name: String
    /// The first characters of the secret.
    package let prefix: String
    /// The last characters of the secret.
    package let suffix: String
    package let permissions: [String]
    package let createdAt: Date
    package let expiresAt: Date?
    package let lastUsedAt: Date?

    init(_ row: Row) throws {
        id = try row["id"]
        organizationID = try row["organization_id"]
        userID = try row["user_id"]
        name = try row["name"]
        prefix = try row["prefix"]
        suffix = try row["suffix"]
        permissions = try row["permissions"]
        createdAt = try row["created_at"]
        expiresAt = try row["expires_at"]
        lastUsedAt = try row["last_used_at"]
    }

    static let columns: SQL =
        "id, organization_id, user_id, name, prefix, suffix, permissions, created_at, expires_at, last_used_at"
}

/// Queries on `api_key`.
package struct APIKeyQueries: Sendable {
    let client: any PostgresClient

    /// The key of this hash, if it has not expired and its organization is not suspended.
    package func authorize(hash: [UInt8]) async throws -> APIKeyRecord? {
        try await client.queryFirst(
            """
            SELECT \(Self.columnsOfKey) FROM api_key k JOIN organization o ON o.id = k.organization_id
            WHERE k.hash = \(hash) AND (k.expires_at IS NULL OR k.expires_at > now()) AND NOT o.suspended
            """
        ).map(APIKeyRecord.init)
    }

    private static let columnsOfKey: SQL = """
        k.id, k.organization_id, k.user_id, k.name, k.prefix, k.suffix, k.permissions, k.created_at, k.expires_at, k.last_used_at
        """

    /// Throws `PostgresError` of `api_key_name_is_unique` if the user has one of this name.
    package func insert(
        organization: OrganizationID,
        user: UserID,
        name: String,
        secret: APIKeySecret,
        permissions: [String],
        expiresAt: Date?
    ) async throws -> APIKeyRecord {
        let row = try await client.queryFirst(
            """
            INSERT INTO api_key (organization_id, user_id, name, hash, prefix, suffix, permissions, expires_at)
            VALUES (\(organization), \(user), \(name), \(secret.hash), \(secret.prefix), \(secret.suffix), \(permissions),
                \(expiresAt))
            RETURNING \(APIKeyRecord.columns)
            """
        )
        return try APIKeyRecord(row!)  // INSERT … RETURNING answers one row or throws
    }

    /// The keys of one user, or with nil of all, oldest first. At most 1000.
    package func list(in organization: OrganizationID, of user: UserID?) async throws -> [APIKeyRecord] {
        try await client.query(
            """
            SELECT \(APIKeyRecord.columns) FROM api_key
            WHERE organization_id = \(organization) AND user_id = coalesce(\(user), user_id) ORDER BY created_at, id LIMIT 1000
            """
        ).map(APIKeyRecord.init)
    }

    package func find(named name: String, in organization: OrganizationID, of user: UserID) async throws
        -> APIKeyRecord?
    {
        try await client.queryFirst(
            """
            SELECT \(APIKeyRecord.columns) FROM api_key
            WHERE organization_id = \(organization) AND user_id = \(user) AND name = \(name)
            """
        ).map(APIKeyRecord.init)
    }

    /// Revokes a key; answers its hash, or nil if there was none. Proxies and other APIs drop it on the notification.
    package func delete(_ id: APIKeyID) async throws -> [UInt8]? {
        try await client.queryFirst("DELETE FROM api_key WHERE id = \(id) RETURNING hash").map { try $0["hash"] }
    }

    /// What credentials are derived from that a key was given; nil where the key is gone, expired, or its organization suspended.
    package func root(of id: APIKeyID) async throws
        -> (hash: [UInt8], organization: OrganizationID, permissions: [String])?
    {
        try await client.queryFirst(
            """
            SELECT k.hash, k.organization_id, k.permissions FROM api_key k JOIN organization o ON o.id = k.organization_id
            WHERE k.id = \(id) AND (k.expires_at IS NULL OR k.expires_at > now()) AND NOT o.suspended
            """
        ).map { (try $0["hash"], try $0["organization_id"], try $0["permissions"]) }
    }

    /// Notes that these keys were used; a note is at most ten seconds more precise than the last.
    package func touch(_ ids: [APIKeyID]) async throws {
        try await client.execute(
            """
            UPDATE api_key SET last_used_at = now()
            WHERE id = ANY (\(ids)) AND (last_used_at IS NULL OR last_used_at < now() - interval '10 seconds')
            """
        )
    }
}

extension PostgresClient {
    package var apiKeys: APIKeyQueries { APIKeyQueries(client: self) }
}
