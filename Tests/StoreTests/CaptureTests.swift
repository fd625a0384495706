import Domain
import Postgres
import Store
import TestSupport
import Testing

/// Captures of sandboxes, as rows: who may do them, what owners see meanwhile, and what an archived sandbox is.
@Suite struct CaptureTests {
    private static let lease = Duration.seconds(30)

    @Test func onlyTheSandboxesRunnerCapturesIt() async throws {
        try await withStarted { database, tenant, runner, one in
            try await database.withRunner("other") { other in
                #expect(try await request(.snapshot, one, database, tenant, name: "mine"))
                #expect(try await find(one, database, tenant).state == .snapshotting)
                #expect(try await !request(.snapshot, one, database, tenant, name: "yours"), "one at a time")
                #expect(try await other.captures.claimCapture(for: Self.lease) == nil)
                #expect(try await runner.captures.claimSnapshotJob([.pull, .build], for: Self.lease) == nil)
                let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
                #expect(job.kind == .capture && job.capture?.sandbox == one.id && job.capture?.purpose == .snapshot)
                #expect(try await runner.captures.claimCapture(for: Self.lease) == nil, "it is held")
                #expect(try await snapshotState("mine", database, tenant) == .snapshotting)
                #expect(try await runner.captures.finish(job, made(job.snapshot)))
                #expect(try await snapshotState("mine", database, tenant) == .active)
                #expect(try await find(one, database, tenant).state == .started)
                let made = try #require(try await database.owner.snapshots.find("mine", for: tenant.organization))
                #expect((made.cpu, made.memoryGib, made.diskGib) == (one.cpu, one.memoryGib, one.diskGib))
            }
        }
    }

    @Test func whoIsInIsNotThrownOut() async throws {
        try await withStarted { database, tenant, runner, one in
            let token = SSHToken.random()
            _ = try await database.owner.sshAccess.grant(
                token,
                to: one.id,
                in: tenant.organization,
                minutes: 5,
                by: Actor("t")
            )
            #expect(try await fork(one, database, tenant) != nil)
            #expect(try await find(one, database, tenant).state == .forking)
            let seen = try await database.owner.queryFirst("SELECT state FROM admit_ssh(\(token.hash))")
            #expect(try seen?["state"] == "started")
            let route = try await database.owner.queryFirst("SELECT state FROM route WHERE sandbox_id = \(one.id)")
            #expect(try route?["state"] == "started")
        }
    }

    @Test func aCaptureThatFailsGivesTheSandboxBackAndCanBeTriedAgain() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.snapshot, one, database, tenant, name: "mine"))
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.fail(job, reason: "too large", retryAfter: nil))
            #expect(try await find(one, database, tenant).state == .started)
            let failed = try #require(try await database.owner.snapshots.find("mine", for: tenant.organization))
            #expect(failed.state == .error && failed.errorReason == "too large")
            #expect(try await database.owner.snapshots.activate(failed.id, of: tenant.organization, by: Actor("t")))
            #expect(try await find(one, database, tenant).state == .snapshotting)
            let again = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.fail(again, reason: "too large", retryAfter: nil))
            try await destroy(one, database, runner)
            await #expect(throws: PostgresError.self) {
                try await database.owner.snapshots.activate(failed.id, of: tenant.organization, by: Actor("t"))
            }
        }
    }

    @Test func aCaptureOfWhatIsGoneEnds() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.snapshot, one, database, tenant, name: "mine"))
            try await destroy(one, database, runner)
            #expect(try await runner.captures.claimCapture(for: Self.lease) == nil)
            #expect(try await database.owner.captures.housekeep() == 1)
            let found = try #require(try await database.owner.snapshots.find("mine", for: tenant.organization))
            #expect(found.state == .error && found.errorReason?.contains("destroyed") == true)
        }
    }

    @Test func anArchivedSandboxIsItsBackup() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            #expect(try await change(.archive, one, database, tenant))
            #expect(try await find(one, database, tenant).state == .archiving)
            #expect(try await find(one, database, tenant).backupState == .pending)
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).runnerID == runner.id, "its only copy is kept")
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(job.capture?.purpose == .backup)
            #expect(try await find(one, database, tenant).backupState == .inProgress)
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            try await runner.reconcileOnce()
            var seen = try await find(one, database, tenant)
            #expect(seen.state == .archived && seen.runnerID == nil && seen.backupState == .completed)
            #expect(seen.image == made(job.snapshot).image.description && seen.backupCreatedAt != nil)
            #expect(try await count("sandbox_queue", database) == 0, "it waits for nobody")
            #expect(try await runner.pool.query("SELECT claim_pending(10)").isEmpty)
            #expect(try await inUse(seen.image, runner))

            #expect(try await change(.start, one, database, tenant))
            seen = try await find(one, database, tenant)
            #expect(seen.state == .restoring && seen.runnerID == runner.id)
            #expect(try await epoch(one, database) == 2, "a container of its first placement is not taken for its own")
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .started)

            try await destroy(one, database, runner)
            #expect(try await database.owner.captures.housekeep() == 1, "nobody needs its backup")
            #expect(try await !inUse(seen.image, runner))
            #expect(try await count("discarded_repository", database) == 1)
        }
    }

    @Test func aBackupThatIsAsNewAsTheFilesIsUsed() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.backup, one, database, tenant))
            let early = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await find(one, database, tenant).state == .started, "a backup disturbs nobody")
            try await stop(one, database, runner)
            #expect(try await runner.captures.finish(early, made(early.snapshot, "1b")))
            #expect(try await change(.archive, one, database, tenant))
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archiving, "it ran after that backup was begun")
            let late = try #require(try await runner.captures.claimCapture(for: Self.lease))
            // Its owner wants it back before it is archived, and then not.
            #expect(try await change(.start, one, database, tenant))
            try await runner.reconcileOnce()
            try await stop(one, database, runner)
            #expect(try await runner.captures.finish(late, made(late.snapshot, "2c")))
            #expect(try await backups(one, database) == 1, "the older one is not needed")
            #expect(try await request(.backup, one, database, tenant))
            let last = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.finish(last, made(last.snapshot, "3d")))
            #expect(try await change(.archive, one, database, tenant))
            #expect(try await runner.captures.claimCapture(for: Self.lease) == nil, "nothing has changed since")
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archiving, "its runner has heard of it only now")
            try await runner.reconcileOnce()
            let seen = try await find(one, database, tenant)
            #expect(seen.state == .archived && seen.image == made(last.snapshot, "3d").image.description)
        }
    }

    @Test func whatCannotBeBackedUpStaysAsItWas() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            #expect(try await change(.archive, one, database, tenant))
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.fail(job, reason: "the registry is away", retryAfter: nil))
            try await runner.reconcileOnce()
            let seen = try await find(one, database, tenant)
            #expect(seen.state == .stopped && seen.desiredState == .stopped && seen.backupState == .error)
            let why = try await database.owner.queryFirst(
                "SELECT cause FROM event WHERE subject_id = \(one.id) AND new_state = 'stopped' ORDER BY id DESC LIMIT 1"
            )
            #expect(try (why?["cause"] as String?)?.contains("the registry is away") == true)
            #expect(try await change(.archive, one, database, tenant), "and can be tried again")
            #expect(try await runner.captures.claimCapture(for: Self.lease) != nil)
        }
    }

    /// An operator may archive what runs: it is stopped first.
    @Test func whatRunsIsStoppedBeforeItIsArchived() async throws {
        try await withStarted { database, tenant, runner, one in
            try await database.owner.execute("UPDATE sandbox SET desired_state = 'archived'")
            #expect(try await find(one, database, tenant).state == .archiving)
            #expect(try await runner.captures.claimCapture(for: Self.lease) == nil)
            try await runner.reconcileOnce()
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archived)
            try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed'")
            #expect(try await database.owner.sandboxes.find(one.id, in: tenant.organization) == nil)
        }
    }

    @Test func whatItsOwnerHasCapturedIsMadeBeforeItIsArchived() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            let child = try #require(try await fork(try await find(one, database, tenant), database, tenant))
            // The API would refuse it now; an operator does not ask.
            try await database.owner.execute("UPDATE sandbox SET desired_state = 'archived' WHERE id = \(one.id)")
            try await runner.reconcileOnce()
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archiving, "the child's image is still to be made")
            try await capture(runner)
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archived)
            #expect(try await find(child, database, tenant).state != .error)
        }
    }

    @Test func whatHasHadNoContainerIsArchivedAsItsImage() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            try await database.owner.execute("UPDATE sandbox_status SET container_id = NULL")
            #expect(try await change(.archive, one, database, tenant))
            #expect(try await runner.captures.claimCapture(for: Self.lease) == nil, "there is nothing to back up")
            // Reported as a host does that has none.
            try await runner.pool.execute(
                "UPDATE sandbox_status SET observed_generation = (SELECT generation FROM my_sandbox WHERE id = \(one.id))"
            )
            try await runner.reconcileOnce()
            let seen = try await find(one, database, tenant)
            #expect(seen.state == .archived && seen.image == one.image)
        }
    }

    @Test func clocksArchiveAndDelete() async throws {
        try await withStarted { database, tenant, runner, one in
            let ephemeral = try await database.makeSandbox(of: tenant) { $0.autoDeleteMinutes = 0 }
            try await database.owner.execute("UPDATE sandbox SET auto_archive_minutes = 5")
            try await runner.report(ephemeral.id, .started)
            try await stop(one, database, runner)
            try await stop(ephemeral, database, runner)
            #expect(try await database.owner.captures.housekeep() == 0)
            try await database.owner.execute(script: "ALTER TABLE sandbox_status DISABLE TRIGGER USER")
            try await database.owner.execute(
                "UPDATE sandbox_status SET state_changed_at = now() - interval '6 minutes'"
            )
            try await database.owner.execute(script: "ALTER TABLE sandbox_status ENABLE TRIGGER USER")
            #expect(try await database.owner.captures.housekeep() == 1)
            #expect(try await find(one, database, tenant).desiredState == .archived)
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            try await runner.reconcileOnce()
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archived)
            try await database.owner.execute(script: "ALTER TABLE sandbox DISABLE TRIGGER a_spec_changes")
            try await database.owner.execute(
                "UPDATE sandbox SET auto_delete_minutes = 5, desired_changed_at = now() - interval '6 minutes' WHERE id = \(one.id)"
            )
            // The sandbox, and in the same turn or the next its backup.
            #expect(try await database.owner.captures.housekeep() >= 1)
            #expect(try await database.owner.sandboxes.find(one.id, in: tenant.organization) == nil)
        }
    }

    @Test func clocksBackUpWhatHasChangedOnly() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await database.owner.captures.housekeep() == 0, "nobody asked for it")
            try await database.owner.execute("UPDATE organization SET backup_minutes = 60, backup_on_stop = true")
            #expect(try await database.owner.captures.housekeep() == 0, "it has just started")
            try await database.owner.execute("UPDATE sandbox_status SET started_at = now() - interval '2 hours'")
            #expect(try await database.owner.captures.housekeep() == 1)
            #expect(try await database.owner.captures.housekeep() == 0, "that one waits still")
            try await capture(runner)
            try await database.owner.execute(
                "UPDATE snapshot SET captured_at = now() - interval '61 minutes' WHERE purpose = 'backup'"
            )
            try await database.owner.execute(
                "UPDATE sandbox_activity SET last_activity_at = now() - interval '90 minutes'"
            )
            #expect(try await database.owner.captures.housekeep() == 0, "nobody has used it since")
            try await database.owner.sandboxes.reportActivity([one.id])
            #expect(try await database.owner.captures.housekeep() == 1)
            try await capture(runner)
            try await stop(one, database, runner)
            #expect(try await database.owner.captures.housekeep() == 1, "it has stopped")
            try await capture(runner)
            #expect(try await database.owner.captures.housekeep() == 0)
            #expect(try await backups(one, database) == 1)
        }
    }

    @Test func aForkWaitsForItsImageAndIsLikeItsParent() async throws {
        try await withStarted { database, tenant, runner, one in
            try await database.owner.execute(
                "UPDATE sandbox SET labels = '{\"a\": \"b\"}', env = '{\"X\": \"1\"}', auto_stop_minutes = 77, auto_destroy_at = created_at + interval '1 hour'"
            )
            let child = try #require(try await fork(one, database, tenant, name: "child"))
            let sister = try #require(try await fork(one, database, tenant))
            #expect(try await find(one, database, tenant).state == .forking)
            var seen = try await find(child, database, tenant)
            #expect(
                seen.state == .creating && seen.runnerID == nil && seen.parentID == one.id
                    && seen.name == "child"
            )
            #expect((seen.labels, seen.env, seen.autoStopMinutes) == (["a": "b"], ["X": "1"], 77))
            let life = try await database.owner.queryFirst(
                "SELECT auto_destroy_at - created_at = interval '1 hour' AS whole FROM sandbox WHERE id = \(child)"
            )
            #expect(try life?["whole"] == true, "it may live as long as its parent might")
            #expect(seen.snapshotName == one.snapshotName)
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.claimCapture(for: Self.lease) == nil, "both start from one image")
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            seen = try await find(child, database, tenant)
            #expect(seen.state == .creating && seen.runnerID == runner.id)
            #expect(seen.image == made(job.snapshot).image.description)
            #expect(try await find(one, database, tenant).state == .started)
            try await runner.reconcileOnce()

            let captures = database.owner.captures
            let grandchild = try #require(try await fork(try await find(child, database, tenant), database, tenant))
            #expect(try await captures.ancestors(of: grandchild, in: tenant.organization).map(\.id) == [child, one.id])
            #expect(
                try await captures.ancestors(of: grandchild, in: tenant.organization, limit: 1).map(\.id) == [child]
            )
            #expect(
                try await Set(captures.forks(of: one.id, in: tenant.organization, includingDestroyed: false).map(\.id))
                    == [child, sister]
            )
            #expect(try await find(one, database, tenant).hasForks)
            let tokens = try await database.owner.query("SELECT DISTINCT toolbox_token FROM sandbox")
            #expect(tokens.count == 4)
        }
    }

    @Test func aForkOfWhatCannotBeCapturedFails() async throws {
        try await withStarted { database, tenant, runner, one in
            let child = try #require(try await fork(one, database, tenant))
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.fail(job, reason: "too large", retryAfter: nil))
            let seen = try await find(child, database, tenant)
            #expect(seen.state == .error && seen.errorReason == "too large")
            #expect(try await find(one, database, tenant).state == .started)
            #expect(try await change(.destroy, seen, database, tenant))
            #expect(try await !find(one, database, tenant).hasForks)
        }
    }

    @Test func whatMayBeStartingStillIsNotLetGo() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            // Its runner may have read this wish, and act on it yet.
            #expect(try await change(.start, one, database, tenant))
            #expect(try await change(.stop(force: true), one, database, tenant))
            #expect(try await change(.archive, one, database, tenant))
            let ready = try await database.owner.queryFirst("SELECT archive_ready FROM sandbox WHERE id = \(one.id)")
            #expect(try ready?["archive_ready"] == false)
            try await runner.reconcileOnce()
            try await runner.reconcileOnce()
            #expect(try await find(one, database, tenant).state == .archived)
        }
    }

    @Test func whoseContainerIsLostStartsFromItsLastBackup() async throws {
        try await withStarted { database, tenant, runner, one in
            let epoch = try await epoch(one, database)
            try await database.owner.execute("UPDATE sandbox_status SET container_id = 'c1'")
            #expect(try await !runner.captures.restoreLost(one.id, epoch: epoch, container: "c1"), "it has none")
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            #expect(try await !runner.captures.restoreLost(one.id, epoch: epoch, container: "c1"), "known already")
            try await database.owner.execute("UPDATE sandbox_status SET container_id = 'c2'")
            #expect(try await !runner.captures.restoreLost(one.id, epoch: epoch + 1, container: "c2"), "fenced")
            #expect(try await runner.captures.restoreLost(one.id, epoch: epoch, container: "c2"))
            let image = try await find(one, database, tenant).image
            #expect(image != one.image && InternalImage(image) != nil)
        }
    }

    @Test func whoTakesOverStartsFromTheLastBackup() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.backup, one, database, tenant))
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            try await database.withRunner("other") { other in
                try await database.holdLease(of: other)
                try await lose(runner, database)
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").count == 1)
                let seen = try await find(one, database, tenant)
                #expect(seen.state == .restoring && seen.image == made(job.snapshot).image.description)
                let why = try await database.owner.queryFirst(
                    "SELECT cause FROM event WHERE subject_id = \(one.id) AND kind = 'sandbox.reclaimed'"
                )
                #expect(try (why?["cause"] as String?)?.contains("from its backup") == true)
            }
        }
    }

    @Test func whatIsStoppedIsArchivedWhereItsBackupIsAllThatIsLost() async throws {
        try await withStarted { database, tenant, runner, one in
            let newer = try await database.makeSandbox(of: tenant)
            let bare = try await database.makeSandbox(of: tenant)
            for sandbox in [newer, bare] { try await runner.report(sandbox.id, .started) }
            #expect(try await request(.backup, newer, database, tenant))
            try await capture(runner)
            for sandbox in [one, newer, bare] { try await stop(sandbox, database, runner) }
            #expect(try await request(.backup, one, database, tenant))
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            try await database.withRunner("other") { other in
                try await database.holdLease(of: other)
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty, "its runner lives")
                #expect(try await find(one, database, tenant).state == .stopped)
                try await lose(runner, database)
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty, "there is nothing to do here")
                let seen = try await find(one, database, tenant)
                #expect(seen.state == .archived && seen.runnerID == nil)
                #expect(seen.image == made(job.snapshot).image.description)
                #expect(try await find(newer, database, tenant).state == .unknown, "it ran after its backup")
                #expect(try await find(bare, database, tenant).state == .unknown)
                let why = try await database.owner.queryFirst(
                    "SELECT cause FROM event WHERE subject_id = \(one.id) AND new_state = 'archived' ORDER BY id LIMIT 1"
                )
                #expect(try (why?["cause"] as String?)?.contains("its backup of") == true)
                #expect(try await change(.start, seen, database, tenant))
                #expect(try await find(one, database, tenant).state == .restoring)
                #expect(try await find(one, database, tenant).runnerID == other.id)
                #expect(try await epoch(one, database) == 2)
            }
        }
    }

    @Test func anArchiveThatItsRunnerDidNotEndIsEnded() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            #expect(try await change(.archive, one, database, tenant))
            try await database.withRunner("other") { other in
                try await database.holdLease(of: other)
                try await lose(runner, database)
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty)
                #expect(try await find(one, database, tenant).runnerID == runner.id, "its only copy is there")
                try await runner.renewLease()
                try await capture(runner)
                try await lose(runner, database)
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty)
                #expect(try await find(one, database, tenant).state == .archived)
            }
        }
    }

    /// Its image is all that there is of it.
    @Test func whatHasNothingOnItsLostRunnerIsArchived() async throws {
        try await withStarted { database, tenant, runner, ready in
            let resting = try await database.makeSandbox(of: tenant)
            let unheard = try await database.makeSandbox(of: tenant)
            for sandbox in [resting, unheard] { try await runner.report(sandbox.id, .started) }
            for sandbox in [ready, resting, unheard] { try await stop(sandbox, database, runner) }
            try await database.owner.execute("UPDATE sandbox_status SET container_id = NULL")
            #expect(try await change(.archive, ready, database, tenant))
            try await runner.pool.execute(
                "UPDATE sandbox_status SET observed_generation = (SELECT generation FROM my_sandbox WHERE id = \(ready.id)) "
                    + "WHERE sandbox_id = \(ready.id)"
            )
            // It may be about to start it still, for the wish before.
            for wish in ["started", "stopped"] {
                try await database.owner.execute("UPDATE sandbox SET desired_state = \(wish) WHERE id = \(unheard.id)")
            }
            try await database.withRunner("other") { other in
                try await database.holdLease(of: other)
                try await lose(runner, database)
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty)
                for sandbox in [ready, resting] {
                    let seen = try await find(sandbox, database, tenant)
                    #expect(seen.state == .archived && seen.image == sandbox.image)
                }
                #expect(try await find(unheard, database, tenant).state == .unknown)
                #expect(try await change(.start, find(resting, database, tenant), database, tenant))
                let again = try await find(resting, database, tenant)
                #expect(again.runnerID == other.id && again.state == .creating, "it starts from its snapshot")
            }
        }
    }

    @Test func aBackupThatIsBeingRemovedIsNotArchivedFrom() async throws {
        try await withStarted { database, tenant, runner, one in
            try await stop(one, database, runner)
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            try await database.withRunner("other") { other in
                try await database.holdLease(of: other)
                try await lose(runner, database)
                try await database.owner.withTransaction { transaction in
                    _ = try await transaction.query("SELECT FROM snapshot WHERE purpose = 'backup' FOR UPDATE")
                    #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty)
                    #expect(try await find(one, database, tenant).state == .unknown)
                }
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty)
                #expect(try await find(one, database, tenant).state == .archived)
            }
        }
    }

    /// A runner of another kind cannot run the files that it would take over.
    @Test func whatWasBackedUpIsTakenOverByItsOwnKindOnly() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await architecture(one, database) == nil)
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            #expect(try await architecture(one, database) == "x86_64")
            try await database.withRunner("other") { other in
                try await database.holdLease(of: other)
                try await database.owner.execute(
                    "UPDATE runner_lease SET expires_at = now() - interval '1 hour' WHERE runner_id = \(runner.id)"
                )
                try await database.owner.execute(
                    "UPDATE runner_status SET architecture = 'aarch64' WHERE runner_id = \(other.id)"
                )
                #expect(try await other.pool.query("SELECT reclaim_orphans(10)").isEmpty)
            }
        }
    }

    /// The newest backup makes way for a newer one at the very moment.
    @Test func aBackupThatMakesWayIsNotStartedFrom() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            #expect(try await request(.backup, one, database, tenant))
            let newer = try #require(try await runner.captures.claimCapture(for: Self.lease))
            let restoring = try await database.owner.withTransaction { transaction in
                try await transaction.execute(
                    "DELETE FROM snapshot WHERE purpose = 'backup' AND id <> \(newer.snapshot)"
                )
                try await transaction.execute(
                    "UPDATE snapshot SET state = 'active', image = 'newer', architecture = 'x86_64' WHERE id = \(newer.snapshot)"
                )
                let restoring = Task {  // owned: awaited below
                    try await database.owner.queryFirst("SELECT restore_from_backup(\(one.id)) AS done")
                }
                try await untilSomebodyWaits(database)
                return restoring
            }
            #expect(try await restoring.value?["done"] == true)
            #expect(try await find(one, database, tenant).image == "newer")
        }
    }

    /// As whoever ends a capture: a backup first, then the sandbox.
    @Test func whatIsRestoredIsNotInTheWayOfCaptures() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.backup, one, database, tenant))
            try await capture(runner)
            let epoch = try await epoch(one, database)
            let restoring = try await database.owner.withTransaction { transaction in
                _ = try await transaction.query("SELECT FROM snapshot WHERE purpose = 'backup' FOR UPDATE")
                let restoring = Task {  // owned: awaited below
                    try await runner.captures.restoreLost(one.id, epoch: epoch, container: "container")
                }
                try await untilSomebodyWaits(database)
                _ = try await transaction.query("SELECT FROM sandbox FOR UPDATE NOWAIT")
                return restoring
            }
            #expect(try await restoring.value)
        }
    }

    // MARK: - Fairness

    @Test func backupsAreSharedOutAmongOrganizations() async throws {
        try await withStarted { database, tenant, runner, one in
            let other = try await database.makeTenant("other")
            for _ in 0..<4 { try await runner.report(database.makeSandbox(of: tenant).id, .started) }
            let late = try await database.makeSandbox(of: other)
            try await runner.report(late.id, .started)
            try await database.owner.execute("UPDATE organization SET backup_minutes = 60")
            try await database.owner.execute("UPDATE sandbox_status SET started_at = now() - interval '2 hours'")
            try await limit("waiting_backups_limit", to: 3, database)
            #expect(try await database.owner.captures.housekeep() == 4, "three of the one, and one of the other")
            #expect(try await database.owner.captures.housekeep() == 0)
            let first = try #require(try await runner.captures.claimCapture(for: Self.lease))
            let second = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(first.organization != second.organization, "nobody's second goes before another's first")
            #expect(try await runner.captures.finish(first, made(first.snapshot)))
            #expect(try await runner.captures.finish(second, made(second.snapshot)))
            #expect(try await database.owner.captures.housekeep() == 1)
            #expect(try await database.owner.captures.housekeep() == 0)
            try await database.owner.execute(
                """
                UPDATE snapshot_job SET not_before = now() + interval '5 minutes'
                WHERE snapshot_id = (SELECT snapshot_id FROM snapshot_job LIMIT 1)
                """
            )
            #expect(try await database.owner.captures.housekeep() == 1, "one that pauses has no place")
        }
    }

    @Test func aHandThatIsKeptForOwnersTakesNoBackup() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.backup, one, database, tenant))
            #expect(try await runner.captures.claimCapture(for: Self.lease, mayBeBackup: false) == nil)
            #expect(try await request(.snapshot, one, database, tenant, name: "mine"))
            let job = try await runner.captures.claimCapture(for: Self.lease, mayBeBackup: false)
            #expect(job?.capture?.purpose == .snapshot)
        }
    }

    /// What a turn looks at does not grow with the tables; what it looks at does go round.
    @Test func housekeepingGoesRound() async throws {
        try await withStarted { database, tenant, runner, one in
            for _ in 0..<4 { try await runner.report(database.makeSandbox(of: tenant).id, .started) }
            try await database.owner.execute("UPDATE organization SET backup_minutes = 60")
            try await database.owner.execute("UPDATE sandbox_status SET started_at = now() - interval '2 hours'")
            try await limit("turn_length", to: 2, database)
            var found: [Int] = []
            for _ in 0..<4 { found.append(try await database.owner.captures.housekeep()) }
            #expect(found == [2, 2, 1, 0])
        }
    }

    @Test func nobodyDeletesAHiddenSnapshot() async throws {
        try await withStarted { database, tenant, runner, one in
            #expect(try await request(.backup, one, database, tenant))
            let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
            #expect(try await runner.captures.finish(job, made(job.snapshot)))
            let (snapshots, id) = (database.owner.snapshots, job.snapshot)
            #expect(try await !snapshots.delete(id, of: tenant.organization, by: Actor("t")))
            #expect(try await !snapshots.deactivate(id, of: tenant.organization, by: Actor("t")))
            #expect(try await backups(one, database) == 1)
            try await database.owner.execute(
                "UPDATE snapshot SET created_at = now() - interval '1 year', activated_at = now() - interval '1 year'"
            )
            #expect(try await snapshots.housekeep() == 0, "a backup is in use for as long as its sandbox lives")
        }
    }

    // MARK: - Doing

    private func limit(_ function: String, to number: Int, _ database: TestDatabase) async throws {
        try await database.owner.execute(
            script:
                "CREATE OR REPLACE FUNCTION \(function)() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT \(number)'"
        )
    }

    private func withStarted(
        _ body: (TestDatabase, TestTenant, TestRunner, SandboxRecord) async throws -> Void
    ) async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            try await database.withRunner { runner in
                let one = try await database.makeSandbox(of: tenant)
                try await runner.report(one.id, .started)
                try await body(database, tenant, runner, try await find(one, database, tenant))
            }
        }
    }

    private func request(
        _ purpose: CapturePurpose,
        _ sandbox: SandboxRecord,
        _ database: TestDatabase,
        _ tenant: TestTenant,
        name: String? = nil
    ) async throws -> Bool {
        let generation = try await find(sandbox, database, tenant).generation
        return try await database.withPool(of: .api, connectionLimit: 1) {
            try await $0.captures.request(
                purpose,
                of: sandbox.id,
                in: tenant.organization,
                generation: generation,
                name: name,
                by: Actor("test")
            )
        }
    }

    private func fork(_ sandbox: SandboxRecord, _ database: TestDatabase, _ tenant: TestTenant, name: String? = nil)
        async throws -> SandboxID?
    {
        try await database.withPool(of: .api, connectionLimit: 1) {
            try await $0.captures.fork(
                sandbox.id,
                in: tenant.organization,
                generation: sandbox.generation,
                name: name,
                by: Actor("test")
            )
        }
    }

    private func change(
        _ change: SandboxChange,
        _ sandbox: SandboxRecord,
        _ database: TestDatabase,
        _ tenant: TestTenant
    ) async throws -> Bool {
        try await database.owner.sandboxes.apply(change, to: sandbox.id, in: tenant.organization, by: Actor("test"))
    }

    private func stop(_ sandbox: SandboxRecord, _ database: TestDatabase, _ runner: TestRunner) async throws {
        try await database.owner.execute("UPDATE sandbox SET desired_state = 'stopped' WHERE id = \(sandbox.id)")
        try await runner.report(sandbox.id, .stopped)
    }

    private func destroy(_ sandbox: SandboxRecord, _ database: TestDatabase, _ runner: TestRunner) async throws {
        try await database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed' WHERE id = \(sandbox.id)")
        try await runner.release(sandbox.id)
    }

    /// Longer ago than any grace.
    private func lose(_ runner: TestRunner, _ database: TestDatabase) async throws {
        try await database.owner.execute(
            "UPDATE runner_lease SET expires_at = now() - interval '1 hour' WHERE runner_id = \(runner.id)"
        )
    }

    /// Does the one capture that waits.
    private func capture(_ runner: TestRunner) async throws {
        let job = try #require(try await runner.captures.claimCapture(for: Self.lease))
        #expect(try await runner.captures.finish(job, made(job.snapshot)))
    }

    private func made(_ id: SnapshotID, _ digit: String = "0a") -> FinishedSnapshot {
        FinishedSnapshot(
            image: InternalImage(
                repository: InternalImage.repository(of: id),
                digest: "sha256:" + String(repeating: digit, count: 32)
            ),
            architecture: "x86_64",
            entrypoint: ["/bin/sh"],
            sizeBytes: 5
        )
    }

    // MARK: - Looking

    private func find(_ sandbox: SandboxRecord, _ database: TestDatabase, _ tenant: TestTenant) async throws
        -> SandboxRecord
    { try await find(sandbox.id, database, tenant) }

    private func find(_ id: SandboxID, _ database: TestDatabase, _ tenant: TestTenant) async throws -> SandboxRecord {
        try #require(try await database.owner.sandboxes.find(id, in: tenant.organization))
    }

    private func epoch(_ sandbox: SandboxRecord, _ database: TestDatabase) async throws -> Int64 {
        let row = try await database.owner.queryFirst(
            "SELECT epoch FROM sandbox_placement WHERE sandbox_id = \(sandbox.id)"
        )
        return try #require(row)["epoch"]
    }

    private func architecture(_ sandbox: SandboxRecord, _ database: TestDatabase) async throws -> String? {
        let row = try await database.owner.queryFirst("SELECT architecture FROM sandbox WHERE id = \(sandbox.id)")
        return try #require(row)["architecture"]
    }

    private func snapshotState(_ name: String, _ database: TestDatabase, _ tenant: TestTenant) async throws
        -> SnapshotState?
    { try await database.owner.snapshots.find(name, for: tenant.organization)?.state }

    private func inUse(_ image: String, _ runner: TestRunner) async throws -> Bool {
        try await !runner.captures.imagesInUse(among: [image]).isEmpty
    }

    private func backups(_ sandbox: SandboxRecord, _ database: TestDatabase) async throws -> Int {
        try #require(
            try await database.owner.queryFirst(
                "SELECT count(*) AS rows FROM snapshot WHERE source_sandbox_id = \(sandbox.id) AND purpose = 'backup'"
            )
        )["rows"]
    }

    private func count(_ table: String, _ database: TestDatabase) async throws -> Int {
        try #require(try await database.owner.queryFirst("SELECT count(*) AS rows FROM \(identifier: table)"))["rows"]
    }
}

extension TestRunner {
    fileprivate var captures: RunnerQueries { RunnerQueries(pool) }
}
