package import Domain
package import FoundationEssentials
package import Postgres

/// What a new installation needs before anybody can use it, made by the owner of the database. Every function here may be
/// called again: what is there stays, secrets included, unless it says otherwise.
package struct Bootstrap: Sendable {
    private let client: any PostgresClient

    /// The client's login must own the schema and may make roles.
    package init(_ client: any PostgresClient) { self.client = client }

    /// A component that logs in to the database by itself. Runners have logins of their own (`createRunner`).
    package enum Component: String, Sendable, CaseIterable {
        case api, proxy, `operator`
        case sshGateway = "ssh_gateway"

        fileprivate var groupRole: String { "martlet_\(rawValue)" }
    }

    /// A login with its password, which is known only now: the database keeps a hash.
    package struct Login: Sendable, CustomStringConvertible {
        package let role: String
        package let password: String
        /// The role only.
        package var description: String { role }
    }

    /// Sees to a region; answers whether it is new.
    @discardableResult
    package func ensureRegion(_ id: String, name: String, graceSeconds: Int = 60) async throws -> Bool {
        try await translatingErrors {
            try await client.execute(
                """
                INSERT INTO region (id, name, grace_seconds) VALUES (\(id), \(name), \(graceSeconds))
                ON CONFLICT (id) DO NOTHING
                """
            ) > 0
        }
    }

    /// Sees to an organization of this name and an admin of this address who owns it.
    package func ensureOrganization(
        named name: String,
        region: String?,
        adminEmail: String,
        adminName: String
    ) async throws -> (organization: OrganizationID, admin: UserID) {
        try await translatingErrors {
            let admin = try await ensureAdmin(email: adminEmail, name: adminName)
            let organization = try await ensureOrganization(named: name, region: region, createdBy: admin)
            try await client.execute(
                """
                INSERT INTO organization_member (organization_id, user_id, role) VALUES (\(organization), \(admin), 'owner')
                ON CONFLICT DO NOTHING
                """
            )
            return (organization, admin)
        }
    }

    private func ensureAdmin(email: String, name: String) async throws -> UserID {
        let row = try await client.queryFirst(
            """
            INSERT INTO app_user (email, name, role) VALUES (\(email), \(name), 'admin')
            ON CONFLICT (email) DO UPDATE SET role = 'admin' RETURNING id
            """
        )
        return try row!["id"]  // DO UPDATE answers the row in both cases
    }

    private func ensureOrganization(named name: String, region: String?, createdBy admin: UserID) async throws
        -> OrganizationID
    {
        if let old = try await client.queryFirst(
            "SELECT id FROM organization WHERE name = \(name) ORDER BY created_at LIMIT 1"
        ) {
            return try old["id"]
        }
        let row = try await client.queryFirst(
            """
            INSERT INTO organization (name, default_region_id, created_by) VALUES (\(name), \(region), \(admin)) RETURNING id
            """
        )
        return try row!["id"]
    }

    /// An image and defaults that every organization may start from.
    package struct GeneralSnapshot: Sendable {
        package var name: String
        package var image: String
        package var cpu: Int
        package var memoryGib: Int
        package var diskGib: Int
        /// nil is the image's own.
        package var osUser: String?
        package var entrypoint: [String]?
        package var allowsSudo: Bool

        package init(
            name: String,
            image: String,
            cpu: Int = 1,
            memoryGib: Int = 1,
            diskGib: Int = 3,
            osUser: String? = nil,
            entrypoint: [String]? = nil,
            allowsSudo: Bool = false
        ) {
            self.name = name
            self.image = image
            self.cpu = cpu
            self.memoryGib = memoryGib
            self.diskGib = diskGib
            self.osUser = osUser
            self.entrypoint = entrypoint
            self.allowsSudo = allowsSudo
        }
    }

    /// Sees to a general snapshot, with these values also if it was there.
    @discardableResult
    package func putGeneralSnapshot(_ snapshot: GeneralSnapshot) async throws -> SnapshotID {
        try await translatingErrors {
            let row = try await client.queryFirst(
                """
                INSERT INTO snapshot (general, name, image, cpu, memory_gib, disk_gib, os_user, entrypoint, allow_sudo)
                VALUES (true, \(snapshot.name), \(snapshot.image), \(snapshot.cpu), \(snapshot.memoryGib), \(snapshot.diskGib),
                    \(snapshot.osUser), \(snapshot.entrypoint), \(snapshot.allowsSudo))
                ON CONFLICT (name) WHERE general DO UPDATE SET image = excluded.image, cpu = excluded.cpu,
                    memory_gib = excluded.memory_gib, disk_gib = excluded.disk_gib, os_user = excluded.os_user,
                    entrypoint = excluded.entrypoint, allow_sudo = excluded.allow_sudo, updated_at = now()
                RETURNING id
                """
            )
            return try row!["id"]
        }
    }

    /// A new key. Throws `nameTaken` if the user has one of this name and it is not to be replaced.
    package func createAPIKey(
        organization: OrganizationID,
        user: UserID,
        name: String,
        permissions: [String] = ["*"],
        expiresAt: Date? = nil,
        replacing: Bool = false
    ) async throws -> APIKeySecret {
        try await translatingErrors {
            if replacing, let old = try await client.apiKeys.find(named: name, in: organization, of: user) {
                _ = try await client.apiKeys.delete(old.id)
            }
            let secret = APIKeySecret.random()
            _ = try await client.apiKeys.insert(
                organization: organization,
                user: user,
                name: name,
                secret: secret,
                permissions: permissions,
                expiresAt: expiresAt
            )
            return secret
        }
    }
}

extension Bootstrap {
    /// Sees to a runner of this name with its own login, and gives that login a new password: the old one, if there was one,
    /// is good no longer.
    package func createRunner(named name: String, region: String) async throws -> (id: RunnerID, login: Login) {
        try await translatingErrors {
            let password = Password.random()
            if let old = try await client.queryFirst("SELECT id, db_role FROM runner WHERE name = \(name)") {
                let role: String = try old["db_role"]
                try await setPassword(of: role, to: password)
                return (try old["id"], Login(role: role, password: password))
            }
            let made = try await client.queryFirst("SELECT create_runner(\(name), \(region), \(password)) AS id")
            let id: RunnerID = try made!["id"]
            let row = try await client.queryFirst("SELECT db_role FROM runner WHERE id = \(id)")
            return (id, Login(role: try row!["db_role"], password: password))
        }
    }

    /// Sees to a login for a component, with a new password: the old one is good no longer.
    ///
    /// - Parameter role: roles belong to the whole cluster; two installations in one need two names.
    package func createLogin(for component: Component, role: String? = nil) async throws -> Login {
        try await translatingErrors {
            let login = Login(role: role ?? "\(component.groupRole)_login", password: Password.random())
            if try await client.queryFirst("SELECT FROM pg_roles WHERE rolname = \(login.role)") == nil {
                try await client.execute(
                    """
                    CREATE ROLE \(identifier: login.role) LOGIN PASSWORD \(literal: login.password)
                    IN ROLE \(identifier: component.groupRole)
                    """
                )
            } else {
                try await setPassword(of: login.role, to: login.password)
                try await client.execute("GRANT \(identifier: component.groupRole) TO \(identifier: login.role)")
            }
            return login
        }
    }

    private func setPassword(of role: String, to password: String) async throws {
        try await client.execute("ALTER ROLE \(identifier: role) LOGIN PASSWORD \(literal: password)")
    }
}
