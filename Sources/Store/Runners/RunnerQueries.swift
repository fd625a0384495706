package import Domain
package import Postgres

/// What a runner asks of the database and tells it, under its own login: row-level security shows it nothing else.
///
/// All throw `PostgresError`.
package struct RunnerQueries: Sendable {
    let client: any PostgresClient

    package init(_ client: any PostgresClient) { self.client = client }

    /// Whose login this is; nil if no runner's.
    package func identity() async throws -> RunnerIdentity? {
        try await client.queryFirst("SELECT id, name, region_id FROM runner WHERE id = current_runner()").map(
            RunnerIdentity.init
        )
    }

    package func register(_ registration: RunnerRegistration) async throws {
        try await client.execute(Self.registering(registration))
    }

    /// The runner is alive for another `ttl`.
    package func renewLease(for ttl: Duration) async throws {
        try await client.execute("SELECT renew_lease(\(ttl.wholeSeconds))")
    }

    /// Takes waiting sandboxes as far as there is room, oldest first.
    package func claimPending(atMost limit: Int) async throws -> [SandboxID] {
        try await client.query("SELECT claim_pending(\(Int32(clamping: limit))) AS id").map { try $0["id"] }
    }

    /// Takes over what dead runners of the region ran.
    package func reclaimOrphans(atMost limit: Int) async throws -> [SandboxID] {
        try await client.query("SELECT reclaim_orphans(\(Int32(clamping: limit))) AS id").map { try $0["id"] }
    }

    /// Applies idle timers and deadlines that are due; returns how many rows changed.
    package func expireTimers() async throws -> Int {
        try await client.queryFirst("SELECT expire_timers() AS changed").map { try $0["changed"] } ?? 0
    }

    /// Makes the list of images held equal to `images`.
    package func replaceImages(_ images: [String], of runner: RunnerID) async throws {
        try await client.execute(
            """
            INSERT INTO runner_image (runner_id, image) SELECT \(runner), unnest(\(images)::text[]) ON CONFLICT DO NOTHING
            """
        )
        try await client.execute(
            "DELETE FROM runner_image WHERE runner_id = \(runner) AND image <> ALL (\(images)::text[])"
        )
    }

    private static func registering(_ its: RunnerRegistration) -> SQL {
        """
        SELECT register_runner(\(its.version), \(Int32(clamping: its.protocolVersion)), \(its.architecture), \(json: its.labels),
            \(Int32(clamping: its.cpuCapacity)), \(Int32(clamping: its.memoryCapacityGib)), \(Int32(clamping: its.diskCapacityGib)),
            \(Int32(clamping: its.gpuCapacity)), \(its.gpuType), \(Int32(clamping: its.addressSlots)), \(its.ingressAddress),
            \(its.tlsFingerprint), \(its.ingressSecret), \(json: its.engine))
        """
    }
}

// Sandboxes placed here.
extension RunnerQueries {
    /// The sandbox if it is placed on this runner. The login must be this runner's (``identity()``): anybody else sees nothing.
    package func sandbox(_ id: SandboxID) async throws -> AssignedSandbox? {
        try await client.queryFirst("SELECT \(AssignedSandbox.columns) FROM my_sandbox WHERE id = \(id)").map(
            AssignedSandbox.init
        )
    }

    /// Every sandbox placed on this runner.
    package func sandboxes() async throws -> [AssignedSandbox] {
        try await client.query("SELECT \(AssignedSandbox.columns) FROM my_sandbox").map(AssignedSandbox.init)
    }

    /// Writes what was seen. False when the sandbox is no longer held under `epoch`: the runner has been fenced.
    package func report(_ report: SandboxReport, of sandbox: SandboxID, epoch: Int64) async throws -> Bool {
        try await client.execute(report.statement(for: sandbox, epoch: epoch)) > 0
    }

    /// Nothing of the sandbox is left on this host: its booking and its address are free. False when it was not held.
    package func release(_ sandbox: SandboxID, epoch: Int64) async throws -> Bool {
        try await client.queryFirst("SELECT release(\(sandbox), \(epoch)) AS released").map { try $0["released"] }
            ?? false
    }
}
