package import Domain
package import FoundationEssentials
import Postgres

// What a runner has of images, fetches, and may let go of.
extension RunnerQueries {
    /// This runner begins to fetch an image. A borrowed one it gives back after use.
    package func beginPull(_ image: String, of runner: RunnerID, isBorrowed: Bool = false) async throws {
        try await client.execute(
            """
            INSERT INTO runner_pull (runner_id, image, is_borrowed) VALUES (\(runner), \(image), \(isBorrowed))
            ON CONFLICT (runner_id, image) DO NOTHING
            """
        )
    }

    package func notePull(_ image: String, of runner: RunnerID, _ progress: TransferProgress) async throws {
        try await client.execute(
            """
            UPDATE runner_pull SET done_bytes = \(progress.doneBytes), total_bytes = \(progress.totalBytes), updated_at = now()
            WHERE runner_id = \(runner) AND image = \(image) AND NOT is_borrowed
            """
        )
    }

    /// The pull has ended, or the loan was given back.
    package func endPull(_ image: String, of runner: RunnerID) async throws {
        try await client.execute("DELETE FROM runner_pull WHERE runner_id = \(runner) AND image = \(image)")
    }

    /// Forgets the pulls of a former process of this runner; loans stay noted.
    package func forgetPulls(of runner: RunnerID) async throws {
        try await client.execute("DELETE FROM runner_pull WHERE runner_id = \(runner) AND NOT is_borrowed")
    }

    /// What it has only for the time of making something, the eldest first.
    package func borrowedImages(of runner: RunnerID) async throws -> [String] {
        try await client.query(
            "SELECT image FROM runner_pull WHERE runner_id = \(runner) AND is_borrowed ORDER BY began_at"
        )
        .map { try $0["image"] }
    }

    /// Images of the internal registry that runners of the region fetch before anybody needs them: of active snapshots that ask
    /// for the region, those used last first. Hidden ones are for the one sandbox that asked.
    package func imagesToPrefetch(in region: String, architecture: String, limit: Int) async throws -> [String] {
        try await client.query(
            """
            SELECT image FROM snapshot
            WHERE state = 'active' AND NOT hidden AND \(region)::text = ANY (region_ids)
                AND starts_with(image, internal_registry() || '/')
                AND coalesce(architecture, \(architecture)::text) = \(architecture)::text
            ORDER BY greatest(last_used_at, activated_at) DESC NULLS LAST, id LIMIT \(limit)
            """
        ).map { try $0["image"] }
    }

    /// Of these images those that this runner's cache is for, with when each was last used.
    package func wantedImages(among images: [String]) async throws -> [String: Date] {
        let rows = try await client.query("SELECT image, last_used_at FROM cached_images_wanted(\(images))")
        return try rows.reduce(into: [:]) { wanted, row in
            wanted[try row["image"] as String] = try (row["last_used_at"] as Date?) ?? .distantPast
        }
    }

    /// A repository of the internal registry to look through for what nobody needs; nil when there is none. Others leave it alone
    /// for so long.
    package func claimDiscarded(for lease: Duration) async throws -> String? {
        try await client.queryFirst(
            "SELECT claim_discarded(\(lease.wholeSeconds)) AS repository"
        ).flatMap { try $0["repository"] as String? }
    }

    /// Of these images those that a snapshot or a living sandbox starts from, or that a job may be about to record.
    package func imagesInUse(among images: [String]) async throws -> Set<String> {
        Set(try await client.query("SELECT images_in_use(\(images)) AS image").map { try $0["image"] as String })
    }

    /// What could be removed of it is. It stays listed while something of it is used, and while somebody may push into it still.
    package func settleDiscarded(_ repository: String, isAllGone: Bool) async throws {
        _ = try await client.query("SELECT settle_discarded(\(repository), \(isAllGone))")
    }
}
