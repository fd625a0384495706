package import Domain
package import Postgres

package enum ContextKind {}
/// An archive of files for builds, or one on its way in.
package typealias ContextID = Identifier<ContextKind>

/// What an organization's build contexts may hold.
package struct ContextLimits: Sendable, Hashable {
    /// One archive.
    package var contextBytes = 1 << 30
    /// All archives of an organization, unfinished ones too.
    package var organizationBytes = 8 << 30

    package init() {}
}

/// A part of a context as it lies here.
package struct ContextPart: Sendable, Hashable {
    package let number: Int
    /// SHA-256 in hexadecimal.
    package let digest: String

    package init(number: Int, digest: String) {
        self.number = number
        self.digest = digest
    }
}

/// Queries on `build_context`: archives that clients upload in parts, and runners read.
package struct ContextQueries: Sendable {
    let client: any PostgresClient

    /// The size of a complete context; nil where there is none of this hash.
    package func size(of hash: String, in organization: OrganizationID) async throws -> Int? {
        try await client.queryFirst(
            """
            SELECT size_bytes FROM build_context
            WHERE organization_id = \(organization) AND hash = \(hash) AND completed_at IS NOT NULL
            """
        ).map { try $0["size_bytes"] }
    }

    /// Begins an upload; nil when as many are under way as an organization may have.
    package func begin(_ hash: String, in organization: OrganizationID, uploadsLimit: Int) async throws -> ContextID? {
        try await client.queryFirst(
            """
            INSERT INTO build_context (organization_id, hash) SELECT \(organization), \(hash)
            WHERE (SELECT count(*) FROM build_context WHERE organization_id = \(organization) AND completed_at IS NULL)
                < \(uploadsLimit)
            RETURNING id
            """
        ).map { try $0["id"] }
    }

    /// Keeps a part; the same number again replaces it. False when there is no such upload under way.
    ///
    /// - Throws: `PostgresError` of `organizationCeiling` where the context, or all of them, would be too large.
    package func put(
        _ part: ContextPart,
        _ content: [UInt8],
        to upload: ContextID,
        in organization: OrganizationID,
        limits: ContextLimits
    ) async throws -> Bool {
        try await client.queryFirst(
            """
            SELECT put_context_part(\(upload), \(organization), \(Int32(clamping: part.number)), \(part.digest), \(content),
                \(limits.contextBytes), \(limits.organizationBytes)) AS kept
            """
        ).map { try $0["kept"] } ?? false
    }

    /// The parts that came, in order.
    package func parts(of upload: ContextID, hash: String, in organization: OrganizationID) async throws
        -> [ContextPart]
    {
        try await client.query(
            """
            SELECT p.number, p.digest FROM build_context_part p JOIN build_context c ON c.id = p.context_id
            WHERE c.id = \(upload) AND c.organization_id = \(organization) AND c.hash = \(hash) AND c.completed_at IS NULL
            ORDER BY p.number
            """
        ).map { ContextPart(number: try $0["number"], digest: try $0["digest"]) }
    }

    /// The upload is whole. Throws `PostgresError` of `build_context_is_unique` where another of its hash was first.
    package func complete(_ upload: ContextID, in organization: OrganizationID) async throws {
        try await client.execute(
            """
            UPDATE build_context SET completed_at = now(), last_used_at = now()
            WHERE id = \(upload) AND organization_id = \(organization) AND completed_at IS NULL
            """
        )
    }

    /// Throws away an upload that is not complete.
    package func abort(_ upload: ContextID, in organization: OrganizationID) async throws {
        try await client.execute(
            "DELETE FROM build_context WHERE id = \(upload) AND organization_id = \(organization) AND completed_at IS NULL"
        )
    }
}

extension PostgresClient {
    package var contexts: ContextQueries { ContextQueries(client: self) }
}
