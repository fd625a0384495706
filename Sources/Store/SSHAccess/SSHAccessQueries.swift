package import Domain
package import FoundationEssentials
package import Postgres

/// A grant as it may be shown: one row of `ssh_access` without its hash.
package struct SSHAccessRecord: Sendable, Identifiable {
    package let id: SSHAccessID
    package let sandboxID: SandboxID
    package let createdAt: Date
    package let updatedAt: Date
    package let expiresAt: Date

    init(_ row: Row) throws {
        id = try row["id"]
        sandboxID = try row["sandbox_id"]
        createdAt = try row["created_at"]
        updatedAt = try row["updated_at"]
        expiresAt = try row["expires_at"]
    }
}

/// Queries on `ssh_access`. Every one carries the organization: a stranger's sandbox is not found.
package struct SSHAccessQueries: Sendable {
    let client: any PostgresClient

    /// Lets the token in; one that was let in before is not any more, and its sessions end.
    /// - Returns: nil if there is no such sandbox, or it is being destroyed.
    package func grant(
        _ token: SSHToken,
        to sandbox: SandboxID,
        in organization: OrganizationID,
        minutes: Int,
        by actor: Actor
    ) async throws -> SSHAccessRecord? {
        try await client.queryFirst(
            """
            \(actor.acting)
            INSERT INTO ssh_access (sandbox_id, organization_id, hash, expires_at)
            SELECT s.id, s.organization_id, \(token.hash), now() + make_interval(mins => \(Int32(minutes))) FROM acting, sandbox s
            WHERE s.id = \(sandbox) AND s.organization_id = \(organization) AND s.desired_state <> 'destroyed'
            ON CONFLICT (sandbox_id) DO UPDATE SET id = gen_random_uuid(), hash = excluded.hash, created_at = now(),
                updated_at = now(), expires_at = excluded.expires_at
            RETURNING id, sandbox_id, created_at, updated_at, expires_at
            """
        ).map(SSHAccessRecord.init)
    }

    /// Lets a token in no more, or whatever there is if it is nil. Not to have been let in is no error.
    package func revoke(
        _ hash: [UInt8]?,
        of sandbox: SandboxID,
        in organization: OrganizationID,
        by actor: Actor
    ) async throws {
        try await client.execute(
            """
            \(actor.acting)
            DELETE FROM ssh_access USING acting
            WHERE sandbox_id = \(sandbox) AND organization_id = \(organization) AND hash = coalesce(\(hash), hash)
            """
        )
    }

    /// The sandbox that a token of the organization's lets into now, or nil.
    package func sandbox(for hash: [UInt8], in organization: OrganizationID) async throws -> SandboxID? {
        try await client.queryFirst(
            """
            SELECT a.sandbox_id FROM ssh_access a JOIN sandbox s ON s.id = a.sandbox_id
            WHERE a.hash = \(hash) AND a.organization_id = \(organization) AND a.expires_at > now()
                AND s.desired_state <> 'destroyed'
            """
        ).map { try $0["sandbox_id"] }
    }

    /// Deletes a portion of what has expired; returns how many.
    package func purge() async throws -> Int {
        try await client.queryFirst("SELECT purge_ssh_access() AS changed").map { try $0["changed"] } ?? 0
    }
}

extension PostgresClient {
    package var sshAccess: SSHAccessQueries { SSHAccessQueries(client: self) }
}
