import Crypto
package import Domain
package import FoundationEssentials
package import Postgres

/// A registry that an organization pulls from: one row of `docker_registry`, without its password, which is never read back.
package struct RegistryRecord: Sendable, Identifiable {
    package let id: RegistryID
    package let name: String
    /// As image names begin with it; `docker.io` for Docker Hub.
    package let host: String
    /// The login is for repositories below this; empty for all.
    package let project: String
    /// Empty where it is asked as nobody.
    package let username: String
    package let trust: RegistryTrust
    package let createdAt: Date
    package let updatedAt: Date

    init(_ row: Row) throws {
        id = try row["id"]
        name = try row["name"]
        host = try row["host"]
        project = try row["project"]
        username = try row["username"]
        trust = try RegistryTrust(row)
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
    }

    static let columns: SQL =
        "id, name, host, project, username, certificate_authorities, is_insecure, created_at, updated_at"

    /// What a password is sealed for: neither another row, nor another host, nor whoever a lesser trust would take for it, can
    /// be given it.
    package static func place(of id: RegistryID, host: String, trust: RegistryTrust = .system) -> String {
        let place = "docker_registry/\(id)/\(host)"
        return switch trust {
        case .system: place
        case .authorities(let text): "\(place)/\(SHA256.hash(data: Data(text.utf8)).hexadecimal)"
        case .anything: "\(place)/insecure"
        }
    }
}

extension RegistryTrust {
    init(_ row: Row) throws {
        let authorities: String? = try row["certificate_authorities"]
        self = try row["is_insecure"] ? .anything : authorities.map(Self.authorities) ?? .system
    }

    var authorities: String? { if case .authorities(let text) = self { text } else { nil } }
}

/// What a registry is to be.
package struct RegistryWish: Sendable {
    package var name: String
    package var host: RegistryHost
    package var project: String
    /// Empty for none, and then there is no password.
    package var username: String
    /// nil leaves the old one, which is possible only while host and trust stay.
    package var password: SealedSecret?
    package var trust: RegistryTrust

    package init(
        name: String,
        host: RegistryHost,
        project: String,
        username: String,
        password: SealedSecret?,
        trust: RegistryTrust = .system
    ) {
        self.name = name
        self.host = host
        self.project = project
        self.username = username
        self.password = password
        self.trust = trust
    }
}

/// Queries on `docker_registry`: an organization's own.
package struct RegistryQueries: Sendable {
    let client: any PostgresClient

    /// Most that an organization may have.
    package static var countLimit: Int { 100 }

    package func list(of organization: OrganizationID) async throws -> [RegistryRecord] {
        try await client.query(
            """
            SELECT \(RegistryRecord.columns) FROM docker_registry WHERE organization_id = \(organization)
            ORDER BY created_at, id LIMIT \(Self.countLimit)
            """
        ).map(RegistryRecord.init)
    }

    package func find(_ id: RegistryID, of organization: OrganizationID) async throws -> RegistryRecord? {
        try await client.queryFirst(
            "SELECT \(RegistryRecord.columns) FROM docker_registry WHERE id = \(id) AND organization_id = \(organization)"
        ).map(RegistryRecord.init)
    }

    /// Whether an operator lets everybody pull from this host though its address is private.
    package func isBlessed(_ host: RegistryHost) async throws -> Bool {
        try await client.queryFirst(
            "SELECT FROM docker_registry WHERE organization_id IS NULL AND host = \(host.text)"
        ) != nil
    }

    /// Nil when the organization has as many as it may. Throws `PostgresError` of `registry_name_is_unique`.
    package func insert(_ wish: RegistryWish, id: RegistryID, of organization: OrganizationID) async throws
        -> RegistryRecord?
    {
        try await client.queryFirst(
            """
            INSERT INTO docker_registry
                (id, organization_id, name, host, project, username, sealed_password, certificate_authorities, is_insecure)
            SELECT \(id), \(organization), \(wish.name), \(wish.host.text), \(wish.project), \(wish.username), \(wish.password?.bytes),
                \(wish.trust.authorities), \(wish.trust == .anything)
            WHERE (SELECT count(*) FROM docker_registry WHERE organization_id = \(organization)) < \(Self.countLimit)
            RETURNING \(RegistryRecord.columns)
            """
        ).map(RegistryRecord.init)
    }

    /// Nil when it is not there, or when its host or trust would change without a new password.
    package func update(_ id: RegistryID, to wish: RegistryWish, of organization: OrganizationID) async throws
        -> RegistryRecord?
    {
        let isLeft = wish.password == nil && !wish.username.isEmpty
        // Nobody may read it, not even to leave it as it is.
        let password: SQL = isLeft ? SQL() : ", sealed_password = \(wish.password?.bytes)"
        return try await client.queryFirst(
            """
            UPDATE docker_registry SET name = \(wish.name), host = \(wish.host.text), project = \(wish.project),
                username = \(wish.username), certificate_authorities = \(wish.trust.authorities),
                is_insecure = \(wish.trust == .anything), updated_at = now()\(password)
            WHERE id = \(id) AND organization_id = \(organization) AND (\(!isLeft) OR host = \(wish.host.text)
                AND certificate_authorities IS NOT DISTINCT FROM \(wish.trust.authorities)
                AND is_insecure = \(wish.trust == .anything) AND username <> '')
            RETURNING \(RegistryRecord.columns)
            """
        ).map(RegistryRecord.init)
    }

    package func delete(_ id: RegistryID, of organization: OrganizationID) async throws -> Bool {
        try await client.execute("DELETE FROM docker_registry WHERE id = \(id) AND organization_id = \(organization)")
            > 0
    }
}

extension PostgresClient {
    package var registries: RegistryQueries { RegistryQueries(client: self) }
}
