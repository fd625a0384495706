import Docker
import Domain
import Firewall
import FoundationEssentials
import Postgres
import Runner
import Store
import Testing
import TestSupport

/// The whole service against a real database, a real engine and the real kernel.
@Suite(.serialized, .timeLimit(.minutes(5))) struct RunnerServiceTests {
    @Test func aSandboxIsStartedStoppedStartedAndDestroyed() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant) { $0.env = ["GREETING": "hi"] }.id
                try await host.wait(id, for: .started)
                let first = try await host.container(id)
                #expect(first.state.status == .running)
                #expect(first.env.contains("GREETING=hi"))
                #expect(first.limits.memoryBytes == 1 << 30)
                #expect(first.limits.memorySwapBytes == 1 << 30)
                #expect(first.limits.nanoCPUs == 1_000_000_000)
                #expect(first.limits.pidsLimit == 1024)
                #expect(try await host.chains() == ["\(id)"])

                try await host.want(id, .stopped)
                try await host.wait(id, for: .stopped)
                #expect(try await host.container(id).state.status == .exited)
                #expect(try await host.chains() == ["\(id)"], "rules outlive a stop")

                try await host.want(id, .started)
                try await host.wait(id, for: .started)
                #expect(try await host.container(id).id == first.id, "the same disk")

                try await host.want(id, .destroyed)
                try await host.waitUntilGone(id)
            }
        }
    }

    @Test func whatIsInForceIsReported() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let row = try await host.database.owner.queryFirst(
                    "SELECT effective::text AS effective, daemon_version, container_id, started_at IS NOT NULL AS began FROM sandbox_status"
                )
                let effective: String = try #require(row)["effective"]
                #expect(
                    effective.contains(#""requestedCpu": 1"#) && effective.contains(#""memoryBytes": 1073741824"#),
                    "\(effective)"
                )
                #expect(effective.contains("diskBytes") || effective.contains("diskNote"), "\(effective)")
                let version: String? = try #require(row)["daemon_version"]
                #expect(version?.isEmpty == false)
                #expect(try #require(row).decode("began", as: Bool.self))
            }
        }
    }

    @Test func limitsChangeWhileItRuns() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let before = try await host.container(id)
                try await host.database.owner.execute("UPDATE sandbox SET cpu = 2, memory_gib = 2 WHERE id = \(id)")
                try await host.wait(id, for: .started)
                let after = try await host.container(id)
                #expect(after.limits.memoryBytes == 2 << 30)
                #expect(after.limits.nanoCPUs == 2_000_000_000)
                #expect(after.state.processID == before.state.processID, "it was not restarted")
            }
        }
    }

    @Test func aRestartedRunnerAdoptsWhatRuns() async throws {
        try await TestHost.with { host in
            var id = SandboxID.random()
            var before: ContainerInspection?
            try await host.withService {
                id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                before = try await host.container(id)
            }
            #expect(try await host.container(id).state.status == .running, "sandboxes outlive their runner")
            #expect(try await host.chains() == ["\(id)"])
            try await host.withService {
                try await host.wait(id, for: .started)
                try await Task.sleep(for: .seconds(2))  // Two resyncs, in which nothing may happen.
                let after = try await host.container(id)
                #expect(after.id == before?.id)
                #expect(after.state.processID == before?.state.processID)
                try await host.want(id, .destroyed)
                try await host.waitUntilGone(id)
            }
        }
    }

    @Test func aGracefulShutdownLeavesSandboxesRunning() async throws {
        try await TestHost.with { host in
            var id = SandboxID.random()
            try await host.withService(gracefully: true) {
                id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
            }
            #expect(try await host.container(id).state.status == .running)
            #expect(try await host.chains() == ["\(id)"])
        }
    }

    @Test func whatWaitsForARunnerIsClaimedWhenOneComes() async throws {
        try await TestHost.with { host in
            let id = try await host.database.makeSandbox(of: host.tenant).id
            #expect(try await host.database.owner.queryFirst("SELECT FROM sandbox_placement") == nil)
            try await host.withService { try await host.wait(id, for: .started) }
        }
    }

    @Test func anIdleSandboxIsStopped() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant) { $0.autoStopMinutes = 1 }.id
                try await host.wait(id, for: .started)
                try await host.database.owner.execute(
                    "UPDATE sandbox_activity SET last_activity_at = now() - interval '2 minutes'"
                )
                try await host.database.owner.execute(
                    "UPDATE sandbox_status SET started_at = now() - interval '2 minutes'"
                )
                try await host.holdLease()
                try await host.wait(id, for: .stopped)
            }
        }
    }

    @Test func aDeadRunnersSandboxIsTakenOverAndItsCopyDestroyedWhenItComesBack() async throws {
        try await TestHost.with { host in
            try await host.database.owner.execute("UPDATE region SET grace_seconds = 1")
            var id = SandboxID.random()
            try await host.withService {
                id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
            }
            try await host.withNeighbour { neighbour in
                try await neighbour.withService {
                    try await host.database.owner.execute(
                        "UPDATE runner_lease SET expires_at = now() - interval '5 seconds' WHERE runner_id = \(host.runner)"
                    )
                    try await neighbour.eventually("the neighbour runs it") {
                        try await neighbour.containers().count == 1
                    }
                    try await host.wait(id, for: .started)
                    #expect(try await host.containers().count == 1, "the dead runner's copy is still there")
                    try await host.withService {
                        try await host.eventually("the stale copy is gone") {
                            let containers = try await host.containers()
                            let chains = try await host.chains()
                            return containers.isEmpty && chains.isEmpty
                        }
                    }
                    #expect(try await host.sandbox(id)?.state == .started)
                    #expect(try await neighbour.container(id).labels[ContainerLabel.epoch] == "2")
                    try await host.want(id, .destroyed)
                    try await neighbour.waitUntilGone(id)
                }
            }
        }
    }

    @Test func aContainerThatIsKilledIsStartedAgain() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let before = try await host.container(id)
                try await host.engine.killContainer(before.id)
                try await host.eventually("it runs again") {
                    let now = try await host.container(id)
                    return now.state.status == .running && now.state.processID != before.state.processID
                }
                try await host.wait(id, for: .started)
                #expect(try await host.container(id).id == before.id)
            }
        }
    }

    @Test func aContainerRemovedBehindOurBackIsMadeAnew() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let before = try await host.container(id)
                try await host.engine.removeContainer(before.id, force: true)
                try await host.eventually("there is another") {
                    try await host.containers().contains { $0.id != before.id && $0.status == .running }
                }
                try await host.wait(id, for: .started)
            }
        }
    }

    @Test func whatIsStoppedBehindOurBackStaysAsItsRowSays() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                try await host.want(id, .stopped)
                try await host.wait(id, for: .stopped)
                try await host.engine.startContainer(try await host.container(id).id)
                try await host.eventually("it is stopped again") {
                    try await host.container(id).state.status == .exited
                }
            }
        }
    }

    @Test func aFencedSandboxIsDestroyedHereAndItsRulesWithIt() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let (other, login) = try await Bootstrap(host.database.owner).createRunner(
                    named: "other",
                    region: host.tenant.region
                )
                await host.database.own(role: login.role)
                try await host.database.owner.execute(
                    "UPDATE sandbox_placement SET runner_id = \(other), epoch = epoch + 1 WHERE sandbox_id = \(id)"
                )
                try await host.eventually("the copy is gone") {
                    let containers = try await host.containers()
                    let chains = try await host.chains()
                    return containers.isEmpty && chains.isEmpty
                }
            }
        }
    }

    @Test func anOlderEpochGivesWayToTheNewOne() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                let before = try await host.container(id)
                try await host.database.owner.execute(
                    "UPDATE sandbox_placement SET epoch = epoch + 1 WHERE sandbox_id = \(id)"
                )
                try await host.eventually("the new epoch runs, and alone") {
                    let containers = try await host.containers()
                    return containers.count == 1 && containers[0].id != before.id
                        && containers[0].labels[ContainerLabel.epoch] == "2"
                }
                try await host.wait(id, for: .started)
            }
        }
    }

    @Test func aContainerThatNoRowExplainsIsSweptAfterAGrace() async throws {
        try await TestHost.with { host in
            try await host.withService {
                var orphan = ContainerSpecification(image: try #require(host.tenant.snapshot.image))
                let owner = ContainerOwner(sandbox: .random(), runner: host.runner, epoch: 1, slot: 77)
                orphan.labels = owner.labels
                orphan.entrypoint = ["sleep", "600"]
                let began = ContinuousClock.now
                _ = try await host.engine.createContainer(named: ContainerName.of(owner.sandbox, epoch: 1), orphan)
                try await host.eventually("it is swept") { try await host.containers().isEmpty }
                #expect(ContinuousClock.now - began >= .seconds(1), "not before the grace")
                try await host.waitUntilGone(owner.sandbox)
            }
        }
    }

    @Test func aStrangersContainerIsNeverTouched() async throws {
        try await TestHost.with { host in
            let id = SandboxID.random()
            var stranger = ContainerSpecification(image: try #require(host.tenant.snapshot.image))
            stranger.entrypoint = ["sleep", "600"]
            let created = try await host.engine.createContainer(named: ContainerName.of(id, epoch: 1), stranger)
            do {
                try await host.withService {
                    try await host.database.makeSandbox(of: host.tenant) { $0.id = id }
                    let failed = try await host.wait(id, for: .error)
                    #expect(failed.errorReason?.contains("is not Martlet's") == true, "\(failed.errorReason ?? "")")
                    try await host.want(id, .destroyed)
                    try await host.waitUntilGone(id)
                    #expect(try await host.engine.inspectContainer(created.id).state.status == .created)
                }
            } catch {
                try? await host.engine.removeContainer(created.id, force: true)
                throw error
            }
            try await host.engine.removeContainer(created.id, force: true)
        }
    }

    @Test func flushedRulesAreHealed() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                try await host.kernel.remove(tag: try host.tag)
                try await host.eventually("the rules are back") { try await host.chains() == ["\(id)"] }
            }
        }
    }

    @Test func anImageThatIsNowhereIsAnErrorWithItsName() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let name = "127.0.0.1:1/nowhere/nothing:1"
                try await host.database.owner.execute("UPDATE snapshot SET image = \(name)")
                let tenant = try await host.database.makeTenant(image: name)
                let id = try await host.database.makeSandbox(of: tenant).id
                let failed = try await host.wait(id, for: .error, within: .seconds(150))
                #expect(failed.errorReason?.contains(name) == true, "\(failed.errorReason ?? "")")
                try await host.want(id, .destroyed)
                try await host.waitUntilGone(id)
            }
        }
    }

    @Test func aSandboxThatEndsAgainAndAgainIsGivenUpWithItsLastWords() async throws {
        try await TestHost.with { host in
            try await host.withService {
                let id = try await host.database.makeSandbox(of: host.tenant).id
                try await host.wait(id, for: .started)
                var last: Int32 = 0
                let killer = Task {  // Owned: cancelled below.
                    while !Task.isCancelled {
                        if let now = try? await host.container(id), now.state.status == .running,
                            now.state.processID != last
                        {
                            last = now.state.processID
                            try? await host.engine.killContainer(now.id)
                        }
                        try? await Task.sleep(for: .milliseconds(50))
                    }
                }
                defer { killer.cancel() }
                let failed = try await host.wait(id, for: .error, within: .seconds(150))
                #expect(failed.errorReason?.contains("exit code 137") == true, "\(failed.errorReason ?? "")")
                #expect(failed.isRecoverable)
                killer.cancel()
                try await host.database.owner.execute(
                    "UPDATE sandbox SET recover_count = recover_count + 1 WHERE id = \(id)"
                )
                try await host.wait(id, for: .started)
            }
        }
    }

    @Test func theEngineGoesAwayAndComesBack() async throws {
        try await TestHost.with { host in
            let gate = try await EngineGate.open(to: host.engineHost)
            do {
                try await host.withService(engine: gate.host) {
                    let running = try await host.database.makeSandbox(of: host.tenant).id
                    try await host.wait(running, for: .started)
                    try await gate.close()
                    let waiting = try await host.database.makeSandbox(of: host.tenant).id
                    try await Task.sleep(for: .seconds(3))
                    #expect(try await host.sandbox(waiting)?.state == .creating, "an engine away is no error")
                    #expect(try await host.sandbox(running)?.state == .started)
                    try await gate.reopen()
                    try await host.wait(waiting, for: .started)
                    try await host.want(running, .destroyed)
                    try await host.waitUntilGone(running)
                }
            } catch {
                try? await gate.close()
                throw error
            }
            try await gate.close()
        }
    }

    /// While the engine is away no pass gets as far as a report, but what was asked for has a deadline all the same; and when
    /// the engine is back, what it kept running is not ended for having been late.
    @Test func deadlinesHoldWhileTheEngineIsAwayAndEndNothingThatRuns() async throws {
        try await TestHost.with { host in
            let gate = try await EngineGate.open(to: host.engineHost)
            do {
                try await host.withService(engine: gate.host) {
                    let resized = try await host.database.makeSandbox(of: host.tenant).id
                    let stopped = try await host.database.makeSandbox(of: host.tenant).id
                    for id in [resized, stopped] { try await host.wait(id, for: .started) }
                    let before = try await host.container(resized)
                    try await host.want(stopped, .stopped)
                    try await host.wait(stopped, for: .stopped)
                    try await gate.close()
                    try await host.want(stopped, .started)
                    try await host.database.owner.execute("UPDATE sandbox SET memory_gib = 2 WHERE id = \(resized)")
                    try await host.holdLease()
                    try await host.database.owner.execute(
                        "UPDATE sandbox SET desired_changed_at = now() - interval '6 minutes'"
                    )
                    for id in [resized, stopped] { try await host.wait(id, for: .error) }
                    try await gate.reopen()
                    try await host.wait(resized, for: .started, within: .seconds(150))
                    let after = try await host.container(resized)
                    #expect(after.id == before.id && after.state.processID == before.state.processID)
                    #expect(after.limits.memoryBytes == 2 << 30)
                    #expect(try await host.sandbox(stopped)?.state == .error, "it did not start, and says so")
                    try await host.database.owner.execute(
                        "UPDATE sandbox SET recover_count = recover_count + 1 WHERE id = \(stopped)"
                    )
                    try await host.wait(stopped, for: .started)
                }
            } catch {
                try? await gate.close()
                throw error
            }
            try await gate.close()
        }
    }

    @Test func manyAtOnceAllStartAndAllGo() async throws {
        try await TestHost.with { host in
            try await host.withService {
                var ids: [SandboxID] = []
                for _ in 0..<20 { ids.append(try await host.database.makeSandbox(of: host.tenant).id) }
                for id in ids { try await host.wait(id, for: .started, within: .seconds(90)) }
                #expect(try await host.chains().count == ids.count)
                try await host.database.owner.execute("UPDATE sandbox SET desired_state = 'destroyed'")
                for id in ids { try await host.waitUntilGone(id, within: .seconds(90)) }
            }
        }
    }
}
