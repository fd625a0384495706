import Domain
import Postgres
import Store
import TestSupport
import Testing

@Suite struct VolumeTests {
    private func make(_ name: String, in database: TestDatabase, of tenant: TestTenant) async throws -> VolumeID {
        let id = VolumeID.random()
        try await database.owner.volumes.insert(id, named: name, in: tenant.organization, by: Actor("test"))
        return id
    }

    private func state(_ id: VolumeID, _ database: TestDatabase) async throws -> VolumeState {
        try await database.owner.queryFirst("SELECT state FROM volume WHERE id = \(id)")!["state"]
    }

    private func expectRefusal(_ constraint: String, naming words: String = "", _ body: () async throws -> Void) async {
        do {
            try await body()
            Issue.record("nothing was refused; \(constraint) should have been")
        } catch let error as PostgresError {
            #expect(error.constraint == constraint, "\(error)")
            #expect(words.isEmpty || error.message.contains(words), "\(error)")
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test func aVolumesLife() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let queries = RunnerQueries(runner.pool)
                let id = try await make("data", in: database, of: tenant)
                #expect(try await state(id, database) == .pendingCreate)
                #expect(try await queries.claimVolumeWork(atMost: 5) == [id])
                #expect(try await queries.claimVolumeWork(atMost: 5) == [], "it is in work")
                #expect(try await state(id, database) == .creating)
                #expect(try await queries.finishVolumeWork(id, wish: .ready, trouble: nil))
                #expect(try await state(id, database) == .ready)
                #expect(try await database.owner.volumes.delete(id, in: tenant.organization, by: Actor("test")))
                #expect(try await queries.wish(of: id) == .deleted)
                #expect(try await queries.claimVolumeWork(atMost: 5) == [id])
                #expect(try await queries.finishVolumeWork(id, wish: .deleted, trouble: nil))
                #expect(try await database.owner.volumes.find(id, in: tenant.organization) == nil)
                let all = try await database.owner.volumes.list(in: tenant.organization, includesDeleted: true)
                #expect(all.map(\.state) == [.deleted])
                _ = try await make("data", in: database, of: tenant)  // The name is free again.
                let events = try await database.owner.query(
                    "SELECT new_state FROM event WHERE subject_id = \(id) ORDER BY id"
                ).map { try $0["new_state"] as String }
                #expect(
                    events == ["pending_create", "creating", "ready", "pending_delete", "deleting", "deleted"]
                )
            }
        }
    }

    @Test func failuresAreShownFromTheThirdOnAndHealed() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let queries = RunnerQueries(runner.pool)
                let id = try await make("data", in: database, of: tenant)
                for attempt in 1...4 {
                    try await database.owner.execute("UPDATE volume SET next_attempt_at = now() WHERE id = \(id)")
                    #expect(try await queries.claimVolumeWork(atMost: 1) == [id])
                    #expect(try await queries.finishVolumeWork(id, wish: .ready, trouble: "S3 is away"))
                    let found = try await database.owner.volumes.find(id, in: tenant.organization)
                    #expect(found?.state == (attempt < 3 ? .creating : .error))
                    #expect(found?.errorReason == (attempt < 3 ? nil : "S3 is away"))
                }
                #expect(try await queries.claimVolumeWork(atMost: 1) == [], "later each time")
                #expect(try await queries.finishVolumeWork(id, wish: .ready, trouble: nil))
                #expect(try await state(id, database) == .ready)
            }
        }
    }

    @Test func whatIsMountedOrUsedIsNotRemoved() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let queries = RunnerQueries(runner.pool)
                let id = try await make("data", in: database, of: tenant)
                let volume = SandboxVolume(volumeId: id, mountPath: "/v")
                await expectRefusal("volumes_are_ready") { _ = try await insert(volume, database, tenant) }
                _ = try await queries.claimVolumeWork(atMost: 1)
                try await queries.finishVolumeWork(id, wish: .ready, trouble: nil)
                let box = try await insert(volume, database, tenant)
                #expect(try await queries.volumeUsers().map(\.volumes) == [[volume]])
                #expect(try await queries.sandbox(box)?.volumes == [volume])
                try await queries.reportMount(of: id, .mounted)
                let record = try await database.owner.volumes.find(id, in: tenant.organization)
                #expect(record?.lastUsedAt != nil)
                await expectRefusal("volume_is_unused") {
                    _ = try await database.owner.volumes.delete(id, in: tenant.organization, by: Actor("test"))
                }
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed' WHERE id = \(box)")
                #expect(try await database.owner.volumes.delete(id, in: tenant.organization, by: Actor("test")))
                #expect(try await queries.claimVolumeWork(atMost: 1) == [], "it is mounted still")
                await expectRefusal("volumes_are_ready") { _ = try await insert(volume, database, tenant) }
                try await queries.forgetMount(of: id)
                await expectRefusal("volume_is_there") { try await queries.reportMount(of: id, .mounting) }
                #expect(try await queries.claimVolumeWork(atMost: 1) == [id])
            }
        }
    }

    /// What has no S3 is given no sandbox with volumes: not new, not waiting, not taken over from others.
    @Test func onlyRunnersThatMountVolumesGetThem() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let volume = SandboxVolume(volumeId: try await makeReady(in: database, of: tenant), mountPath: "/v")
            try await database.withRunner("bare", mountsVolumes: false) { bare in
                await expectRefusal("fits_a_runner", naming: "no runner of region test mounts volumes") {
                    _ = try await insert(volume, database, tenant)
                }
                #expect(try await database.makeSandbox(of: tenant).runnerID == bare.id)
                try await database.withRunner("mounting", cpu: 8) { mounting in
                    await expectRefusal("fits_a_runner", naming: "an S3 for volumes") {
                        _ = try await insert(volume, database, tenant, cpu: 9)
                    }
                    let placed = try await insert(volume, database, tenant, cpu: 8)
                    #expect(try await runner(of: placed, database) == mounting.id)
                    let waiting = try await insert(volume, database, tenant)
                    #expect(try await runner(of: waiting, database) == nil)
                    #expect(try await claim(bare) == [])
                    try await database.holdLease(of: bare)
                    try await database.owner.execute(
                        "UPDATE runner_lease SET expires_at = now() - interval '1 hour' WHERE runner_id = \(mounting.id)"
                    )
                    #expect(try await bare.pool.query("SELECT reclaim_orphans(10)").isEmpty)
                    try await mounting.renewLease()
                    try await database.owner.execute(
                        "UPDATE sandbox SET desired_state = 'destroyed' WHERE id = \(placed)"
                    )
                    try await mounting.release(placed)
                    #expect(try await claim(mounting) == [waiting])
                }
            }
        }
    }

    @Test func whoIsStuckIsToldItsVolumes() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let volume = try await makeReady(in: database, of: tenant)
            try await database.withRunner { runner in
                let one = try await insert(SandboxVolume(volumeId: volume, mountPath: "/v"), database, tenant)
                try await database.owner.execute(script: "ALTER TABLE sandbox_status DISABLE TRIGGER USER")
                try await database.owner.execute(
                    "UPDATE sandbox_status SET state_changed_at = now() - interval '1 hour'"
                )
                try await database.owner.execute(
                    script:
                        "ALTER TABLE sandbox DISABLE TRIGGER USER; UPDATE sandbox SET desired_changed_at = now() - interval '1 hour'"
                )
                func why() async throws -> String {
                    try await database.owner.queryFirst("SELECT why FROM stuck_sandboxes WHERE id = \(one)")!["why"]
                }
                #expect(try await why() == "it waits for volumes (data: not mounted): see view volumes")
                try await RunnerQueries(runner.pool).reportMount(of: volume, .error, problem: "S3 is away")
                #expect(try await why() == "it waits for volumes (data: error, S3 is away): see view volumes")
                try await RunnerQueries(runner.pool).reportMount(of: volume, .mounted)
                #expect(try await why().contains("from creating to started"))
            }
        }
    }

    private func makeReady(in database: TestDatabase, of tenant: TestTenant) async throws -> VolumeID {
        let id = try await make("data", in: database, of: tenant)
        try await database.owner.execute("UPDATE volume SET state = 'ready' WHERE id = \(id)")
        return id
    }

    private func runner(of sandbox: SandboxID, _ database: TestDatabase) async throws -> RunnerID? {
        try await database.owner.queryFirst("SELECT runner_id FROM sandbox_placement WHERE sandbox_id = \(sandbox)")?[
            "runner_id"
        ]
    }

    private func insert(_ volume: SandboxVolume, _ database: TestDatabase, _ tenant: TestTenant, cpu: Int = 1)
        async throws -> SandboxID
    {
        let snapshot = try await database.owner.snapshots.find("default", for: tenant.organization)!
        var new = NewSandbox(organizationID: tenant.organization, regionID: tenant.region, snapshot: snapshot)
        new.volumes = [volume]
        new.cpu = cpu
        try await database.owner.sandboxes.insert(new, by: Actor("test"))
        let found = try await database.owner.sandboxes.find(new.id, in: tenant.organization)
        #expect(found?.volumes == [volume])
        return new.id
    }

    @Test func ceilingsAndStrangers() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await make("data", in: database, of: tenant)
            await expectRefusal("volume_name_is_unique") { _ = try await make("data", in: database, of: tenant) }
            try await database.owner.execute("UPDATE organization SET volume_limit = 1")
            await expectRefusal("volume_limit") { _ = try await make("more", in: database, of: tenant) }
            let stranger = OrganizationID.random()
            #expect(try await database.owner.volumes.find(id, in: stranger) == nil)
            #expect(try await database.owner.volumes.find(named: "data", in: stranger) == nil)
            #expect(try await database.owner.volumes.find("data", in: tenant.organization)?.id == id)
            #expect(try await !database.owner.volumes.delete(id, in: stranger, by: Actor("test")))
            #expect(try await database.owner.volumes.list(in: stranger, includesDeleted: true).isEmpty)
        }
    }

    /// What a runner may do with other runners' mounts, and with the rows of volumes: nothing.
    @Test func aRunnerKnowsItsOwnMountsOnly() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await make("data", in: database, of: tenant)
            try await database.withRunner("a", mountsVolumes: false) { a in
                try await database.withRunner("b", mountsVolumes: false) { b in
                    try await RunnerQueries(a.pool).reportMount(of: id, .mounted)
                    #expect(try await RunnerQueries(a.pool).mounts().map(\.volume) == [id])
                    #expect(try await RunnerQueries(b.pool).mounts().isEmpty)
                    for (who, problem, expected) in [
                        (b, "b's", nil), (a, "short", "short"), (a, "shorter", "short"), (b, nil, "short"),
                        (a, nil, nil),
                    ] as [(TestRunner, String?, String?)] {
                        try await RunnerQueries(who.pool).noteMounts(problem: problem)
                        let noted = try await database.owner.queryFirst("SELECT problem FROM volume_mount")
                        #expect(try noted?["problem"] as String? == expected)
                    }
                    #expect(try await b.pool.execute("DELETE FROM volume_mount") == 0)
                    await #expect(throws: PostgresError.self) { try await a.pool.query("SELECT * FROM volume") }
                    await #expect(throws: PostgresError.self) { try await a.pool.query("SELECT purge_volumes()") }
                }
            }
            try await database.withPool(of: .api) { api in
                let made = try await make("other", in: database, of: tenant)
                #expect(try await api.volumes.delete(made, in: tenant.organization, by: Actor("test")))
                await #expect(throws: PostgresError.self) { try await api.execute("UPDATE volume SET state = 'ready'") }
                #expect(try await api.volumes.areOffered() == false)
                #expect(try await api.volumes.purge() == 0)
            }
        }
    }
}
