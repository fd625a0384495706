import Domain
import FoundationEssentials
import Postgres
import Store
import TestSupport
import Testing

/// Snapshots that are asked for, and the jobs that make them.
@Suite struct SnapshotJobTests {
    private static let lease = Duration.seconds(30)

    @Test func oneRunnerMakesIt() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner("a") { a in
                try await database.withRunner("b") { b in
                    let job = try #require(try await claim(a))
                    #expect(job.snapshot == id)
                    #expect(job.imageName == "registry.example/app:1")
                    #expect(try await claim(b) == nil, "it is held")
                    #expect(try await state(database, id) == .pulling)
                    #expect(
                        try await a.jobs.hold(
                            job,
                            for: Self.lease,
                            step: "pull",
                            progress: .init(doneBytes: 1, totalBytes: 2)
                        )
                    )
                    #expect(try await !b.jobs.finish(job, made(id)), "only its holder finishes it")
                    await #expect(throws: PostgresError.self, "another's repository") {
                        try await a.jobs.finish(job, made(SnapshotID(UUID())))
                    }
                    #expect(try await a.jobs.finish(job, made(id)))
                    #expect(try await !a.jobs.finish(job, made(id)), "once")
                    let found = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                    #expect(found.state == .active)
                    #expect(found.image == made(id).image.description)
                    #expect(found.imageEntrypoint == ["/bin/sh"])
                    #expect(found.sizeBytes == 5)
                    #expect(found.architecture == "x86_64")
                    #expect(try await count(database, "snapshot_job") == 0)
                }
            }
        }
    }

    @Test func aDeadRunnersJobIsTakenOverAndItIsFenced() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner("a") { a in
                try await database.withRunner("b") { b in
                    let first = try #require(try await claim(a))
                    try await expireLease(database)
                    let second = try #require(try await claim(b))
                    #expect(second.epoch > first.epoch)
                    #expect(try await !a.jobs.hold(first, for: Self.lease, step: "pull", progress: nil))
                    #expect(try await !a.jobs.finish(first, made(id)))
                    #expect(try await !a.jobs.fail(first, reason: "late", retryAfter: nil))
                    #expect(try await b.jobs.finish(second, made(id)))
                }
            }
        }
    }

    @Test func aRunnerThatComesBackLetsGoOfItsJobsOnly() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            for name in ["one", "two"] { _ = try await ask(database, tenant, name: name) }
            try await database.withRunner("a") { a in
                try await database.withRunner("b") { b in
                    let ofA = try #require(try await claim(a))
                    let ofB = try #require(try await claim(b))
                    try await a.jobs.releaseSnapshotJobs()
                    let again = try #require(try await claim(b))
                    #expect(again.snapshot == ofA.snapshot && again.epoch > ofB.epoch)
                    #expect(try await claim(a) == nil, "the other's is held still")
                }
            }
        }
    }

    @Test func manyRunnersNeverHoldOneJobTwice() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            for index in 0..<6 { _ = try await ask(database, tenant, name: "s\(index)") }
            try await database.withRunner("a") { a in
                try await database.withRunner("b") { b in
                    let held = try await withThrowingTaskGroup(of: SnapshotID?.self) { group in
                        for index in 0..<16 { group.addTask { try await self.claim(index % 2 == 0 ? a : b)?.snapshot } }
                        return try await group.reduce(into: [SnapshotID]()) { all, id in if let id { all.append(id) } }
                    }
                    #expect(Set(held).count == held.count)
                    // A claim that found a row locked may have gone away with nothing; asking again finds the rest.
                    var more = held
                    while let job = try await claim(a) { more.append(job.snapshot) }
                    #expect(more.count == 6)
                    #expect(Set(more).count == 6)
                }
            }
        }
    }

    @Test func failuresOfEachCauseAreCountedByThemselves() async throws {
        try await TestDatabase.with { database in
            _ = try await ask(database, try await database.makeTenant())
            try await database.withRunner { runner in
                var seen: [String] = []
                for cause in [.ours, .ours, .theirs, .theirs, .ours, nil, nil] as [SnapshotFailureCause?] {
                    let job = try #require(try await claim(runner))
                    seen.append("\(job.failures) \(job.failing?.rawValue ?? "-")")
                    #expect(try await runner.jobs.fail(job, of: cause, reason: "x", retryAfter: .zero))
                }
                #expect(seen == ["0 -", "1 ours", "2 ours", "1 theirs", "2 theirs", "1 ours", "1 -"])
            }
        }
    }

    @Test func aFailureMayPassOrIsFinal() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner { runner in
                let first = try #require(try await claim(runner))
                #expect(try await runner.jobs.fail(first, reason: "the registry is away", retryAfter: .seconds(60)))
                #expect(try await claim(runner) == nil, "it rests")
                #expect(try await state(database, id).isUnderWay)
                try await database.owner.execute("UPDATE snapshot_job SET not_before = now()")
                let second = try #require(try await claim(runner))
                #expect(second.failures == 1)
                #expect(try await runner.jobs.fail(second, reason: "no such tag", retryAfter: nil))
                let found = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                #expect(found.state == .error)
                #expect(found.errorReason == "no such tag")
                #expect(try await claim(runner) == nil)

                let snapshots = database.owner.snapshots
                #expect(try await snapshots.activate(id, of: tenant.organization, by: Actor("test")))
                #expect(try await state(database, id) == .pending)
                #expect(try await claim(runner) != nil)
            }
        }
    }

    @Test func nothingStaysPendingForEver() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let (nobody, late, deadly) = (
                try await ask(database, tenant, name: "nobody"), try await ask(database, tenant, name: "late"),
                try await ask(database, tenant, name: "deadly")
            )
            try await database.withRunner { runner in
                while try await claim(runner) != nil {}
                try await database.owner.execute(
                    "UPDATE snapshot_job SET epoch = 0, claims = 0, idle_since = now() - interval '11 minutes', lease_expires_at = NULL WHERE snapshot_id = \(nobody)"
                )
                try await database.owner.execute(
                    "UPDATE snapshot_job SET deadline_at = now() - interval '1 s', last_error = 'so it was' WHERE snapshot_id = \(late)"
                )
                try await database.owner.execute(
                    "UPDATE snapshot_job SET claims = snapshot_claims_limit(), lease_expires_at = now() WHERE snapshot_id = \(deadly)"
                )
                #expect(try await database.owner.snapshots.housekeep() == 3)
                for (name, words) in [("nobody", "no runner"), ("late", "so it was"), ("deadly", "runner-1")] {
                    let found = try #require(try await database.owner.snapshots.find(name, for: tenant.organization))
                    #expect(found.state == .error)
                    #expect(found.errorReason?.contains(words) == true, "\(found.errorReason ?? "")")
                }
                #expect(try await count(database, "snapshot_job") == 0)
            }
        }
    }

    /// A queue is no failure: who is served later has all of his time still. But no queue is for ever.
    @Test func whoQueuesIsNotLate() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await Bootstrap(database.owner).ensureRegion("far", name: "far")
            try await database.withRunner { runner in
                _ = try await ask(database, tenant, name: "busy")
                #expect(try await claim(runner) != nil)
                let queued = try await ask(database, tenant, name: "queued")
                let elsewhere = try await ask(database, tenant, name: "elsewhere") { $0.regionIDs = ["far"] }
                try await database.owner.execute(
                    "UPDATE snapshot_job SET created_at = now() - interval '2 hours', idle_since = now() - interval '2 hours' WHERE epoch = 0"
                )
                #expect(try await database.owner.snapshots.housekeep() == 1, "nobody of the far region is at anything")
                #expect(try await state(database, elsewhere) == .error)
                #expect(try await state(database, queued) == .pending)
                let job = try #require(try await claim(runner))
                #expect(job.snapshot == queued)
                #expect(job.timeLeft > .seconds(3500) && job.timeLeft <= .seconds(3600))

                let endless = try await ask(database, tenant, name: "endless")
                try await database.owner.execute(
                    "UPDATE snapshot_job SET deadline_at = now() - interval '1 s' WHERE epoch = 0"
                )
                #expect(try await database.owner.snapshots.housekeep() == 1)
                let found = try #require(
                    try await database.owner.snapshots.find("\(endless)", for: tenant.organization)
                )
                #expect(found.errorReason?.contains("queue is too long") == true, "\(found.errorReason ?? "")")
            }
        }
    }

    @Test func wishesCancelJobs() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner { runner in
                let job = try #require(try await claim(runner))
                try await database.owner.execute("UPDATE snapshot SET desired_state = 'inactive' WHERE id = \(id)")
                #expect(try await state(database, id) == .inactive)
                #expect(try await !runner.jobs.hold(job, for: Self.lease, step: "pull", progress: nil))
                try await database.owner.execute("UPDATE snapshot SET desired_state = 'active' WHERE id = \(id)")
                let again = try #require(try await claim(runner))
                #expect(again.epoch > job.epoch, "no token is given twice")
                #expect(try await database.owner.snapshots.delete(id, of: tenant.organization, by: Actor("test")))
                #expect(try await !runner.jobs.finish(again, made(id)))
            }
        }
    }

    @Test func whatWasMadeStaysWhereSandboxesNeedIt() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            let image = made(id).image.description
            try await database.withRunner { runner in
                #expect(try await runner.jobs.finish(try #require(try await claim(runner)), made(id)))
                let snapshot = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                let box = try await database.makeSandbox(of: tenant) { $0.snapshot = snapshot }
                #expect(try await runner.jobs.wantedImages(among: [image, "other"]).keys.sorted() == [image])
                #expect(try await database.owner.snapshots.delete(id, of: tenant.organization, by: Actor("test")))
                let repository = try await runner.jobs.claimDiscarded(for: .seconds(60))
                #expect(repository == InternalImage.repository(of: id))
                #expect(try await runner.jobs.claimDiscarded(for: .seconds(60)) == nil, "one at a time")
                #expect(try await runner.jobs.imagesInUse(among: [image]) == [image])
                try await runner.jobs.settleDiscarded(InternalImage.repository(of: id), isAllGone: false)
                #expect(try await count(database, "discarded_repository") == 1)
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed' WHERE id = \(box.id)")
                #expect(try await runner.release(box.id))
                #expect(try await runner.jobs.imagesInUse(among: [image]).isEmpty)
                #expect(try await runner.jobs.wantedImages(among: [image]).isEmpty)
                try await runner.jobs.settleDiscarded(InternalImage.repository(of: id), isAllGone: true)
                #expect(try await count(database, "discarded_repository") == 1, "somebody may be pushing still")
                try await database.owner.execute(
                    "UPDATE discarded_repository SET discarded_at = now() - interval '66 minutes'"
                )
                try await runner.jobs.settleDiscarded(InternalImage.repository(of: id), isAllGone: true)
                #expect(try await count(database, "discarded_repository") == 0)
            }
        }
    }

    /// The runner learns of it later, when it has pushed: nothing it pushed may be without a row that leads to it.
    @Test func whatAnEndedJobMayPushIsDiscarded() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let (deleted, rested, failed) = (
                    try await ask(database, tenant, name: "deleted"), try await ask(database, tenant, name: "rested"),
                    try await ask(database, tenant, name: "failed")
                )
                let active = try await ask(database, tenant, name: "active")
                while let job = try await claim(runner) {
                    if job.snapshot == active { #expect(try await runner.jobs.finish(job, made(active))) }
                    if job.snapshot == failed { #expect(try await runner.jobs.fail(job, reason: "x", retryAfter: nil)) }
                }
                #expect(try await database.owner.snapshots.delete(deleted, of: tenant.organization, by: Actor("test")))
                try await database.owner.execute("UPDATE snapshot SET desired_state = 'inactive' WHERE id = \(rested)")
                let rows = try await database.owner.query("SELECT repository FROM discarded_repository")
                let expected = Set([deleted, rested, failed].map(InternalImage.repository))
                #expect(Set(try rows.map { try $0["repository"] as String }) == expected)

                let repository = InternalImage.repository(of: deleted)
                try await database.owner.execute(
                    "UPDATE discarded_repository SET discarded_at = now() - interval '64 minutes', not_before = now() - interval '1 hour' WHERE repository = \(repository)"
                )
                #expect(try await runner.jobs.claimDiscarded(for: .seconds(60)) == repository)
                try await runner.jobs.settleDiscarded(repository, isAllGone: true)
                let row = try await database.owner.queryFirst(
                    "SELECT not_before > now() AS rests FROM discarded_repository WHERE repository = \(repository)"
                )
                #expect(try row?["rests"] == true, "it is looked through again")
            }
        }
    }

    @Test func aLostImageIsMadeAnew() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner { runner in
                let job = try #require(try await claim(runner))
                #expect(try await runner.jobs.finish(job, made(id)))
                #expect(try await runner.jobs.reportLost(made(id).image) == 1)
                #expect(try await runner.jobs.reportLost(made(id).image) == 0)
                #expect(try await state(database, id) == .pending)
                #expect(try await claim(runner) != nil)
            }
        }
    }

    /// Its tag may have moved meanwhile.
    @Test func sandboxesOfALostImageGetWhatIsMadeAnew() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner { runner in
                #expect(try await runner.jobs.finish(try #require(try await claim(runner)), made(id)))
                let snapshot = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                let lost = try await database.makeSandbox(of: tenant) { $0.snapshot = snapshot }
                let other = try await database.makeSandbox(of: tenant) { $0.snapshot = snapshot }
                try await database.owner.execute("UPDATE sandbox SET image = 'older' WHERE id = \(other.id)")
                _ = try await runner.jobs.reportLost(made(id).image)
                var anew = made(id)
                anew.image = InternalImage(
                    repository: anew.image.repository,
                    digest: "sha256:" + String(repeating: "0b", count: 32)
                )
                #expect(try await runner.jobs.finish(try #require(try await claim(runner)), anew))
                #expect(try await image(database, lost.id) == anew.image.description)
                #expect(try await image(database, other.id) == "older")
                let row = try await database.owner.queryFirst("SELECT lost_image FROM snapshot WHERE id = \(id)")
                #expect(try row?["lost_image"] as String? == nil)
            }
        }
    }

    @Test func useIsNotedAndTheUnusedGoesInactive() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let id = try await ask(database, tenant)
            try await database.withRunner { runner in
                #expect(try await runner.jobs.finish(try #require(try await claim(runner)), made(id)))
                let snapshot = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                #expect(snapshot.lastUsedAt == nil)
                let box = try await database.makeSandbox(of: tenant) { $0.snapshot = snapshot }
                let used = try #require(try await database.owner.snapshots.find("one", for: tenant.organization))
                #expect(used.lastUsedAt != nil)
                try await database.owner.execute(
                    "UPDATE snapshot SET last_used_at = now() - interval '15 days', activated_at = last_used_at, created_at = now() - interval '20 days'"
                )
                try await database.owner.execute("UPDATE snapshot SET activated_at = now() - interval '16 days'")
                #expect(try await database.owner.snapshots.housekeep() == 0, "a living sandbox is of it")
                try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed' WHERE id = \(box.id)")
                #expect(try await runner.release(box.id))
                #expect(try await database.owner.snapshots.housekeep() == 1)
                #expect(try await state(database, id) == .inactive)
                let general = try await database.owner.snapshots.find("default", for: tenant.organization)
                #expect(general?.isActive == true, "everybody's stays")
            }
        }
    }

    @Test func aCeilingHolds() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.owner.execute("UPDATE organization SET snapshot_limit = 1")
            _ = try await ask(database, tenant)
            let error = await #expect(throws: PostgresError.self) { _ = try await ask(database, tenant, name: "two") }
            #expect(error?.code == .organizationCeiling)
            #expect(error?.message.contains("1 snapshots") == true)
        }
    }

    @Test func regionsAndKindsAreHeeded() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await Bootstrap(database.owner).ensureRegion("far", name: "far")
            let id = try await ask(database, tenant) { $0.regionIDs = ["far"] }
            try await database.withRunner("near") { near in
                #expect(try await claim(near) == nil)
                try await database.withRunner("there", of: "far") { there in
                    #expect(try await there.jobs.claimSnapshotJob([.build], for: Self.lease) == nil)
                    let job = try #require(try await claim(there))
                    #expect(try await there.jobs.finish(job, made(id)))
                    let image = made(id).image.description
                    #expect(
                        try await there.jobs.imagesToPrefetch(in: "far", architecture: "x86_64", limit: 10) == [image]
                    )
                    #expect(try await near.jobs.imagesToPrefetch(in: "test", architecture: "x86_64", limit: 10) == [])
                    #expect(try await there.jobs.imagesToPrefetch(in: "far", architecture: "aarch64", limit: 10) == [])
                }
            }
        }
    }

    // MARK: - Registries

    @Test func aLoginIsGivenToTheHolderOfAJobOnly() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let other = try await database.makeTenant("globex")
            let box = try SecretBox(hexKey: String(repeating: "ab", count: 32))
            for (owner, project) in [(tenant, ""), (tenant, "team"), (other, "")] {
                let id = RegistryID.random()
                let wish = RegistryWish(
                    name: "r\(project)",
                    host: try #require(RegistryHost("registry.example")),
                    project: project,
                    username: "user\(project)",
                    password: try box.seal("secret", for: RegistryRecord.place(of: id, host: "registry.example"))
                )
                #expect(try await database.owner.registries.insert(wish, id: id, of: owner.organization) != nil)
            }
            _ = try await ask(database, tenant)
            try await database.withRunner("a") { a in
                try await database.withRunner("b") { b in
                    let job = try #require(try await claim(a))
                    let login = try #require(
                        try await a.jobs.registryLogin(job, for: ImageName(parsing: "registry.example/app:1"))
                    )
                    #expect(login.username == "user")
                    #expect(try box.open(try #require(login.password), for: login.place) == "secret")
                    let ofTeam = try await a.jobs.registryLogin(
                        job,
                        for: ImageName(parsing: "registry.example/team/app:1")
                    )
                    #expect(ofTeam?.username == "userteam")
                    #expect(try await a.jobs.registryLogin(job, for: ImageName(parsing: "other.example/app:1")) == nil)
                    #expect(
                        try await b.jobs.registryLogin(job, for: ImageName(parsing: "registry.example/app:1")) == nil
                    )
                    await expectDenied(a.pool, "SELECT * FROM docker_registry")
                    await expectDenied(a.pool, "SELECT * FROM snapshot_job")
                    await expectDenied(a.pool, "UPDATE snapshot SET state = 'active'")
                }
            }
            try await database.withPool(of: .api) { api in
                await expectDenied(api, "SELECT sealed_password FROM docker_registry")
                await expectDenied(api, "UPDATE snapshot SET state = 'active'")
                await expectDenied(api, "UPDATE snapshot_job SET epoch = 9")
                let registries = try await api.registries.list(of: tenant.organization)
                #expect(registries.count == 2)
            }
            try await database.withPool(of: .operator) { psql in
                await expectDenied(psql, "SELECT sealed_password FROM docker_registry")
                _ = try await psql.query("SELECT * FROM snapshots")
                _ = try await psql.query("SELECT * FROM image_pulls")
            }
        }
    }

    @Test func aTrustIsGivenWithItsLoginAndAnOperatorsToEverybody() async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let host = try #require(RegistryHost("10.0.0.9:5000"))
            let image = try ImageName(parsing: "10.0.0.9:5000/team/app:1")
            try await database.owner.execute(
                "INSERT INTO docker_registry (name, host) VALUES ('blessed', \(host.text))"
            )
            _ = try await ask(database, tenant)
            try await database.withRunner("a") { a in
                let job = try #require(try await claim(a))
                #expect(try await a.jobs.registryLogin(job, for: image) == nil, "a blessing alone says nothing")
                try await database.owner.execute(
                    "UPDATE docker_registry SET certificate_authorities = 'PEM' WHERE host = \(host.text)"
                )
                let everybodys = try #require(try await a.jobs.registryLogin(job, for: image))
                #expect(everybodys.trust == .authorities("PEM"))
                #expect(everybodys.password == nil)
                try await database.withPool(of: .api) { api in
                    let id = RegistryID.random()
                    var wish = RegistryWish(
                        name: "own",
                        host: host,
                        project: "",
                        username: "",
                        password: nil,
                        trust: .anything
                    )
                    #expect(try await api.registries.insert(wish, id: id, of: tenant.organization)?.trust == .anything)
                    #expect(try await a.jobs.registryLogin(job, for: image)?.trust == .anything, "its own comes first")
                    wish.username = "u"
                    #expect(
                        try await api.registries.update(id, to: wish, of: tenant.organization) == nil,
                        "no password"
                    )
                    wish.password = SealedSecret(bytes: [1])
                    #expect(try await api.registries.update(id, to: wish, of: tenant.organization) != nil)
                    wish.password = nil
                    #expect(try await api.registries.update(id, to: wish, of: tenant.organization) != nil, "it is left")
                    #expect(try await a.jobs.registryLogin(job, for: image)?.password == SealedSecret(bytes: [1]))
                    wish.trust = .authorities("PEM")
                    #expect(
                        try await api.registries.update(id, to: wish, of: tenant.organization) == nil,
                        "another trust"
                    )
                    wish.username = ""
                    #expect(try await api.registries.update(id, to: wish, of: tenant.organization) != nil)
                    let anonymous = try #require(try await a.jobs.registryLogin(job, for: image))
                    #expect(anonymous.password == nil && anonymous.trust == .authorities("PEM"))
                    wish.username = "u"
                    wish.password = SealedSecret(bytes: [2])
                    wish.trust = .system
                    #expect(try await api.registries.update(id, to: wish, of: tenant.organization) != nil)
                    let login = try #require(try await a.jobs.registryLogin(job, for: image))
                    #expect(login.trust == .system && login.effectiveTrust == .authorities("PEM"))
                }
            }
        }
    }

    @Test func aSecretOpensOnlyInItsPlace() throws {
        let box = try SecretBox(hexKey: String(repeating: "01", count: 32))
        let other = try SecretBox(hexKey: String(repeating: "02", count: 32))
        let sealed = try box.seal("påss", for: "here")
        #expect(try box.open(sealed, for: "here") == "påss")
        #expect(try box.seal("påss", for: "here") != sealed, "never the same twice")
        #expect(throws: SecretBox.Failure.self) { try box.open(sealed, for: "there") }
        #expect(throws: SecretBox.Failure.self) { try other.open(sealed, for: "here") }
        #expect(throws: SecretBox.Failure.self) { try box.open(SealedSecret(bytes: [1, 2]), for: "here") }
        #expect("\(box)" == "SecretBox")
        for bad in ["", "00", String(repeating: "g", count: 64), String(repeating: "0", count: 66)] {
            #expect(throws: SecretBox.Failure.self) { try SecretBox(hexKey: bad) }
        }
    }

    // MARK: - Agreement

    @Test func wordsOfTheSchemaAreTheCases() async throws {
        try await TestDatabase.with { database in
            let states = try await words(database, "snapshot", "state")
            #expect(states == Set(SnapshotState.allCases.map(\.rawValue)))
            #expect(try await words(database, "snapshot_job", "kind") == Set(SnapshotJobKind.allCases.map(\.rawValue)))
            let causes = try await words(database, "snapshot_job", "failing")
            #expect(causes == Set(SnapshotFailureCause.allCases.map(\.rawValue)))
            let row = try await database.owner.queryFirst("SELECT internal_registry() AS host")
            #expect(try row?.decode("host", as: String.self) == InternalImage.host)
        }
    }

    private func words(_ database: TestDatabase, _ table: String, _ column: String) async throws -> Set<String> {
        let row = try await database.owner.queryFirst(
            """
            SELECT pg_get_constraintdef(c.oid) AS text FROM pg_constraint c
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
            WHERE c.conrelid = \(table)::regclass AND c.contype = 'c' AND a.attname = \(column)
            """
        )
        let text: String = try #require(row)["text"]
        return Set(text.matches(of: /'([a-z_]+)'/).map { String($0.1) })
    }

    // MARK: - Doing

    private func ask(
        _ database: TestDatabase,
        _ tenant: TestTenant,
        name: String = "one",
        _ adjust: (inout NewSnapshot) -> Void = { _ in }
    ) async throws -> SnapshotID {
        var new = NewSnapshot(organizationID: tenant.organization, name: name, imageName: "registry.example/app:1")
        adjust(&new)
        try await database.owner.snapshots.insert(new, by: Actor("test"))
        return new.id
    }

    private func claim(_ runner: TestRunner) async throws -> SnapshotJob? {
        try await runner.jobs.claimSnapshotJob([.pull], for: Self.lease)
    }

    private func made(_ id: SnapshotID) -> FinishedSnapshot {
        FinishedSnapshot(
            image: InternalImage(
                repository: InternalImage.repository(of: id),
                digest: "sha256:" + String(repeating: "0a", count: 32)
            ),
            architecture: "x86_64",
            entrypoint: ["/bin/sh"],
            sizeBytes: 5
        )
    }

    private func state(_ database: TestDatabase, _ id: SnapshotID) async throws -> SnapshotState {
        try #require(try await database.owner.queryFirst("SELECT state FROM snapshot WHERE id = \(id)"))["state"]
    }

    private func image(_ database: TestDatabase, _ id: SandboxID) async throws -> String {
        try #require(try await database.owner.queryFirst("SELECT image FROM sandbox WHERE id = \(id)"))["image"]
    }

    private func expireLease(_ database: TestDatabase) async throws {
        try await database.owner.execute("UPDATE snapshot_job SET lease_expires_at = now() - interval '1 s'")
    }

    private func count(_ database: TestDatabase, _ table: String) async throws -> Int {
        try #require(try await database.owner.queryFirst("SELECT count(*) AS rows FROM \(identifier: table)"))["rows"]
    }
}

extension TestRunner {
    fileprivate var jobs: RunnerQueries { RunnerQueries(pool) }
}
