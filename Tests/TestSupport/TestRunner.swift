package import Domain
package import Postgres
import Store

/// A runner as far as the database can tell: it logs in as one, registers, renews its lease and reports. The database is the
/// interface between the rooms, so this is no mock of ours.
package struct TestRunner: Sendable {
    package let id: RunnerID
    package let configuration: PostgresConfiguration
    /// Connections as this runner.
    package let pool: PostgresPool

    /// Renews the lease; 0 lets it expire.
    package func renewLease(seconds: Int32 = 600) async throws {
        try await pool.execute("SELECT renew_lease(\(seconds))")
    }

    /// Reports a sandbox of its own, as a runner does: conditional on runner and epoch. Answers whether the row was touched.
    @discardableResult
    package func report(_ sandbox: SandboxID, _ state: ObservedState, error: String? = nil, recoverable: Bool = false)
        async throws -> Bool
    {
        try await pool.execute(
            """
            UPDATE sandbox_status t SET state = \(state), error_reason = \(error), recoverable = \(recoverable),
                observed_generation = my.generation, container_id = coalesce(t.container_id, 'container'), started_at = CASE WHEN \(state == .started) THEN now() ELSE t.started_at END,
                effective = jsonb_build_object('requestedCpu', my.cpu, 'requestedMemoryGib', my.memory_gib,
                    'requestedDiskGib', my.disk_gib)
            FROM my_sandbox my
            WHERE my.id = t.sandbox_id AND t.sandbox_id = \(sandbox) AND t.runner_id = \(id) AND t.epoch = my.epoch
            """
        ) > 0
    }

    /// The host holds nothing of it any more. Answers whether the placement was this runner's.
    @discardableResult
    package func release(_ sandbox: SandboxID) async throws -> Bool {
        try await pool.queryFirst(
            "SELECT release(\(sandbox), (SELECT epoch FROM my_sandbox WHERE id = \(sandbox))) AS done"
        )?["done"] ?? false
    }

    /// Brings every sandbox placed on it to what is desired, once.
    package func reconcileOnce() async throws {
        for row in try await pool.query(
            "SELECT id, desired_state, state FROM my_sandbox WHERE state <> desired_state OR observed_generation < generation"
        ) {
            let id: SandboxID = try row["id"]
            switch try row.decode("desired_state", as: DesiredState.self) {
            case .started: try await report(id, .started)
            case .stopped: try await report(id, .stopped)
            case .archived: try await reconcileArchived(id)
            case .destroyed: try await release(id)
            }
        }
    }

    private func reconcileArchived(_ id: SandboxID) async throws {
        let row = try await pool.queryFirst("SELECT archive_ready FROM my_sandbox WHERE id = \(id)")
        guard let row else { return }
        if try row["archive_ready"] { try await release(id) } else { try await report(id, .stopped) }
    }

    /// Reconciles until cancelled.
    package func run(every pause: Duration = .milliseconds(20)) async {
        while !Task.isCancelled {
            try? await reconcileOnce()
            try? await Task.sleep(for: pause)
        }
    }
}

extension TestDatabase {
    /// As if the runner had held its lease for this long. What it does to others' sandboxes and to idle ones waits for that.
    package func holdLease(of runner: TestRunner, for time: Duration = .seconds(3600)) async throws {
        try await owner.execute(
            "UPDATE runner_lease SET held_since = now() - \(time)::interval WHERE runner_id = \(runner.id)"
        )
    }

    /// Runs a registered runner of this capacity for the time of `body`.
    package func withRunner<Value>(
        _ name: String = "runner-1",
        of region: String = "test",
        cpu: Int32 = 64,
        memoryGib: Int32 = 256,
        diskGib: Int32 = 1024,
        gpu: Int32 = 0,
        gpuType: String? = nil,
        slots: Int32 = 1000,
        mountsVolumes: Bool = true,
        _ body: (TestRunner) async throws -> Value
    ) async throws -> Value {
        let (id, login) = try await Bootstrap(owner).createRunner(named: name, region: region)
        await own(role: login.role)
        let configuration = configuration(role: login.role, password: login.password)
        let pool = PostgresPool(
            configuration,
            limits: .init(connectionLimit: 4, minimumIdle: 0),
            logger: TestStack.logger
        )
        return try await Self.withRunning(pool) {
            let runner = TestRunner(id: id, configuration: configuration, pool: pool)
            _ = try await pool.query(
                """
                SELECT register_runner('test', 1, 'x86_64', '{}', \(cpu), \(memoryGib), \(diskGib), \(gpu), \(gpuType),
                    \(slots), '127.0.0.1:1', \(String(repeating: "0", count: 64)), \([UInt8](repeating: 7, count: 32)),
                    jsonb_build_object('mountsVolumes', \(mountsVolumes)))
                """
            )
            try await runner.renewLease()
            return try await body(runner)
        }
    }
}
