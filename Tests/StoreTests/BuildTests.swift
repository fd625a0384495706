import Domain
import Postgres
import Store
import TestSupport
import Testing

/// Images that are built: shared by equal definitions, waited for by sandboxes, made from uploaded files, and told of by logs.
@Suite struct BuildTests {
    private static let definition = BuildDefinition(dockerfile: "FROM a\nRUN true\n", contextHashes: [])

    @Test func equalDefinitionsShareOneBuild() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let other = try await database.makeTenant("globex")
            try await database.withRunner { runner in
                var waiting: [SandboxID] = []
                for _ in 0..<5 { waiting.append(try await ask(database, tenant).id) }
                try await name(database, tenant, "one")
                _ = try await ask(database, other)
                let job = try #require(try await claim(runner))
                let second = try #require(try await claim(runner))
                #expect(try await claim(runner) == nil, "one for each organization")
                #expect(Set([job.organization, second.organization]) == [tenant.organization, other.organization])
                let mine = job.organization == tenant.organization ? job : second
                for id in waiting { #expect(try await state(database, tenant, id) == .buildingSnapshot) }
                #expect(try await runner.jobs.finish(mine, made(mine)))
                for id in waiting { #expect(try await state(database, tenant, id) == .creating) }
                #expect(
                    try await database.owner.snapshots.find("one", for: tenant.organization)?.image
                        == made(mine).image.description
                )
                #expect(try await ask(database, tenant).state == .creating, "what was built is not built again")
                try await name(database, tenant, "two")
                #expect(try await database.owner.snapshots.find("two", for: tenant.organization)?.isActive == true)
                #expect(try await claim(runner) == nil)
            }
        }
    }

    @Test func aFailureIsEverybodysAndIsNotKept() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let box = try await ask(database, tenant)
                #expect(box.state == .pendingBuild)
                try await name(database, tenant, "one")
                let job = try #require(try await claim(runner))
                #expect(try await runner.jobs.fail(job, reason: "step build: no", retryAfter: nil))
                let failed = try #require(try await database.owner.sandboxes.find(box.id, in: tenant.organization))
                #expect(failed.state == .buildFailed)
                #expect(failed.errorReason == "step build: no")
                let snapshot = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                #expect(snapshot.state == .buildFailed)
                #expect(snapshot.errorReason == "step build: no")
                let next = try await ask(database, tenant)
                #expect(next.state == .pendingBuild, "it is tried again")
                #expect(try await state(database, tenant, box.id) == .buildFailed, "but not for who has been told")
                #expect(try await claim(runner) != nil)
            }
        }
    }

    @Test func whoFollowsABuildInheritsIt() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                for word in ["one", "two", "three"] { try await name(database, tenant, word) }
                let first = try #require(try await claim(runner))
                let one = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                #expect(first.snapshot == one.id)
                #expect(try await database.owner.snapshots.delete(one.id, of: tenant.organization, by: Actor("test")))
                #expect(try await !runner.jobs.finish(first, made(first)), "deleted: its runner is fenced")
                let second = try #require(try await claim(runner))
                #expect(try await claim(runner) == nil)
                #expect(try await runner.jobs.finish(second, made(second)))
                for word in ["two", "three"] {
                    #expect(try await database.owner.snapshots.find(word, for: tenant.organization)?.isActive == true)
                }
            }
        }
    }

    @Test func hiddenSnapshotsAreSeenNowhereAndGoWhenUnused() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.owner.execute("UPDATE organization SET snapshot_limit = 0")
            let box = try await ask(database, tenant)
            let listed = try await database.owner.snapshots.list(
                for: tenant.organization,
                nameContains: nil,
                sort: .name,
                isDescending: false,
                page: 1,
                limit: 10
            )
            #expect(listed.items.map(\.name) == ["default"])
            #expect(try await database.owner.snapshots.countOwned(by: tenant.organization) == 0)
            await #expect(throws: PostgresError.self, "the ceiling is for what is named") {
                try await name(database, tenant, "one")
            }
            try await database.owner.execute("UPDATE organization SET snapshot_limit = 1")
            try await name(database, tenant, "one")
            let hidden: SnapshotID = try await database.owner.queryFirst("SELECT id FROM snapshot WHERE hidden")!["id"]
            #expect(try await database.owner.snapshots.find("\(hidden)", for: tenant.organization) == nil)
            try await database.owner.execute(
                "UPDATE snapshot SET created_at = now() - interval '2 days', last_used_at = NULL WHERE hidden"
            )
            #expect(try await database.owner.builds.housekeep() == 0, "a sandbox waits for it")
            try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed' WHERE id = \(box.id)")
            #expect(try await database.owner.builds.housekeep() == 1)
            #expect(try await database.owner.queryFirst("SELECT FROM snapshot WHERE hidden") == nil)
        }
    }

    @Test func anImageOfTheOperatorsNeedsNoWork() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let given = try await database.owner.builds.requestImage(
                "martlet/busybox:test",
                in: tenant.region,
                of: tenant.organization
            )
            #expect(given.isActive)
            #expect(given.image == "martlet/busybox:test")
            let pulled = try await database.owner.builds.requestImage(
                "busybox:1",
                in: tenant.region,
                of: tenant.organization
            )
            #expect(pulled.state == .pending)
            let again = try await database.owner.builds.requestImage(
                "busybox:1",
                in: tenant.region,
                of: tenant.organization
            )
            #expect(again.id == pulled.id)
            let box = try await database.makeSandbox(of: tenant) { $0.snapshot = pulled }
            #expect(box.state == .pullingSnapshot)
            #expect(box.snapshotName == nil)
        }
    }

    @Test func logsAreReadFromAnyByte() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let box = try await ask(database, tenant)
                let job = try #require(try await claim(runner))
                for word in ["one\n", "two\n", "three\n"] {
                    #expect(try await runner.jobs.appendBuildLog(Array(word.utf8), of: job))
                }
                let source = try #require(try await database.owner.builds.log(of: box.id, in: tenant.organization))
                #expect(source.isUnderWay)
                for offset in 0...14 {
                    let read = try await database.owner.builds.readLog(of: source.builder, from: offset)
                    #expect(read == Array("one\ntwo\nthree\n".utf8.dropFirst(offset)))
                }
                #expect(try await runner.jobs.finish(job, made(job)))
                #expect(try await !runner.jobs.appendBuildLog([1], of: job), "it is over")
                #expect(try await database.owner.builds.log(of: box.id, in: tenant.organization)?.isUnderWay == false)
                let stranger = try await database.makeTenant("globex")
                #expect(try await database.owner.builds.log(of: box.id, in: stranger.organization) == nil)
            }
        }
    }

    // MARK: - Contexts

    @Test func contextsComeInPartsAndAreReadByTheHolderOfTheirBuild() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let hash = String(repeating: "a", count: 32)
            let contexts = database.owner.contexts
            let upload = try #require(try await contexts.begin(hash, in: tenant.organization, uploadsLimit: 1))
            #expect(try await contexts.begin(hash, in: tenant.organization, uploadsLimit: 1) == nil)
            for (number, text) in [(1, "wrong"), (2, "def"), (1, "abc")] {
                let part = ContextPart(number: number, digest: "d\(number)")
                #expect(
                    try await contexts.put(part, Array(text.utf8), to: upload, in: tenant.organization, limits: .init())
                )
            }
            #expect(try await contexts.size(of: hash, in: tenant.organization) == nil, "not yet")
            let definition = BuildDefinition(dockerfile: "FROM a\n", contextHashes: [hash, hash])
            let early = await #expect(throws: PostgresError.self) {
                try await database.owner.builds.requestBuild(definition, in: tenant.region, of: tenant.organization)
            }
            #expect(early?.constraint == "context_is_uploaded")
            try await contexts.complete(upload, in: tenant.organization)
            #expect(try await contexts.size(of: hash, in: tenant.organization) == 6)
            let stranger = try await database.makeTenant("globex")
            #expect(try await contexts.size(of: hash, in: stranger.organization) == nil)
            _ = try await database.owner.builds.requestBuild(definition, in: tenant.region, of: tenant.organization)
            try await database.withRunner("a") { a in
                try await database.withRunner("b") { b in
                    let job = try #require(try await claim(a))
                    #expect(
                        try await a.jobs.readContext(hash, of: job, part: 1, from: 1, atMost: 5) == Array("bc".utf8)
                    )
                    #expect(try await a.jobs.readContext(hash, of: job, part: 2, from: 3, atMost: 5) == [])
                    #expect(try await a.jobs.readContext(hash, of: job, part: 3, from: 0, atMost: 5) == nil)
                    #expect(
                        try await b.jobs.readContext(hash, of: job, part: 1, from: 0, atMost: 5) == nil,
                        "another's build"
                    )
                }
            }
        }
    }

    @Test func contextsAreBoundedAndPurged() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let (contexts, organization) = (database.owner.contexts, tenant.organization)
            var limits = ContextLimits()
            limits.contextBytes = 8
            limits.organizationBytes = 12
            func put(_ number: Int, _ count: Int, to upload: ContextID) async throws {
                let part = ContextPart(number: number, digest: "d")
                #expect(
                    try await contexts.put(
                        part,
                        [UInt8](repeating: 1, count: count),
                        to: upload,
                        in: organization,
                        limits: limits
                    )
                )
            }
            let first = try #require(
                try await contexts.begin(String(repeating: "a", count: 32), in: organization, uploadsLimit: 9)
            )
            try await put(1, 8, to: first)
            let tooLarge = await #expect(throws: PostgresError.self) { try await put(2, 1, to: first) }
            #expect(tooLarge?.code == .organizationCeiling)
            let second = try #require(
                try await contexts.begin(String(repeating: "b", count: 32), in: organization, uploadsLimit: 9)
            )
            try await put(1, 4, to: second)
            let tooMany = await #expect(throws: PostgresError.self) { try await put(2, 1, to: second) }
            #expect(tooMany?.code == .organizationCeiling)
            try await contexts.complete(second, in: organization)
            try await database.owner.execute("UPDATE build_context SET last_used_at = now() - interval '2 hours'")
            #expect(try await database.owner.builds.housekeep() == 1, "the unfinished one")
            #expect(try await contexts.size(of: String(repeating: "b", count: 32), in: organization) == 4)
            try await database.owner.execute("UPDATE build_context SET last_used_at = now() - interval '8 days'")
            #expect(try await database.owner.builds.housekeep() == 1)
        }
    }

    // MARK: - Helpers of this suite

    private func ask(_ database: TestDatabase, _ tenant: TestTenant) async throws -> SandboxRecord {
        let image = try await database.owner.builds.requestBuild(
            Self.definition,
            in: tenant.region,
            of: tenant.organization
        )
        return try await database.makeSandbox(of: tenant) { $0.snapshot = image }
    }

    private func name(_ database: TestDatabase, _ tenant: TestTenant, _ word: String) async throws {
        var new = NewSnapshot(organizationID: tenant.organization, name: word)
        new.buildInfo = try Self.definition.json
        new.regionIDs = [tenant.region]
        try await database.owner.snapshots.insert(new, by: Actor("test"))
    }

    private func claim(_ runner: TestRunner) async throws -> SnapshotJob? {
        try await RunnerQueries(runner.pool).claimSnapshotJob([.build], for: .seconds(30))
    }

    private func state(_ database: TestDatabase, _ tenant: TestTenant, _ id: SandboxID) async throws -> PublicState? {
        try await database.owner.sandboxes.find(id, in: tenant.organization)?.state
    }

    private func made(_ job: SnapshotJob) -> FinishedSnapshot {
        let digest = "sha256:" + String(repeating: "0", count: 64)
        let image = InternalImage(repository: InternalImage.repository(of: job.snapshot), digest: digest)
        return FinishedSnapshot(image: image, architecture: "x86_64", entrypoint: nil, sizeBytes: 1)
    }
}

extension TestRunner {
    fileprivate var jobs: RunnerQueries { RunnerQueries(pool) }
}
