import Domain
import Runner
import Store
import Testing

@Suite struct SurveyPlanTests {
    private let runner = RunnerID.random()

    private func row(_ desired: DesiredState, _ state: ObservedState, container: String? = "c") -> AssignedSandbox {
        var row = AssignedSandbox(id: .random(), image: "i", toolboxToken: "t")
        row.desired = desired
        row.reported.state = state
        row.reported.generation = row.generation
        row.reported.containerID = container
        return row
    }

    private func container(_ row: AssignedSandbox, isRunning: Bool, id: String = "c", epoch: Int64 = 1)
        -> SurveyedContainer
    {
        let owner = ContainerOwner(sandbox: row.id, runner: runner, epoch: epoch, slot: 1)
        return SurveyedContainer(id: id, owner: owner, isRunning: isRunning)
    }

    private func keys(_ row: AssignedSandbox, _ containers: [SurveyedContainer], slice: Int? = 40) -> Set<SandboxID> {
        planSurvey(rows: [row], containers: containers, ruled: [], slice: slice, slices: 40)
    }

    @Test func whatIsAsWantedCostsNothing() {
        let started = row(.started, .started)
        #expect(keys(started, [container(started, isRunning: true)]).isEmpty)
        let stopped = row(.stopped, .stopped)
        #expect(keys(stopped, [container(stopped, isRunning: false)]).isEmpty)
        #expect(keys(stopped, []).isEmpty)
    }

    @Test func everyDifferenceIsSeen() {
        let started = row(.started, .started)
        #expect(!keys(started, []).isEmpty, "its container is gone")
        #expect(!keys(started, [container(started, isRunning: false)]).isEmpty, "it does not run")
        #expect(
            !keys(started, [container(started, isRunning: true, id: "other")]).isEmpty,
            "another container has its name"
        )
        #expect(!keys(started, [container(started, isRunning: true, epoch: 2)]).isEmpty, "of another epoch")
        let stopped = row(.stopped, .stopped)
        #expect(!keys(stopped, [container(stopped, isRunning: true)]).isEmpty, "it runs though stopped")
        let failed = row(.started, .error)
        #expect(keys(failed, [container(failed, isRunning: false)]).isEmpty)
        #expect(!keys(failed, [container(failed, isRunning: true)]).isEmpty, "it runs though failed")
        var changed = row(.started, .started)
        changed.generation += 1
        #expect(!keys(changed, [container(changed, isRunning: true)]).isEmpty, "its row changed")
        var bombed = container(started, isRunning: true)
        bombed.reached = LimitsReached()
        #expect(keys(started, [bombed]).isEmpty)
        bombed.reached?.refusedForks = 1
        #expect(!keys(started, [bombed]).isEmpty, "it ran into a limit")
        var untold = started
        untold.recordsTerminals = true
        #expect(!keys(untold, [container(untold, isRunning: true)]).isEmpty, "its daemon was not told a setting")
        let destroyed = row(.destroyed, .started)
        #expect(!keys(destroyed, []).isEmpty)
    }

    @Test func whatNoRowExplainsIsLookedAt() {
        let stranger = row(.started, .started)
        let ruled = SandboxID.random()
        let keys = planSurvey(
            rows: [],
            containers: [container(stranger, isRunning: false)],
            ruled: [ruled],
            slice: 1,
            slices: 40
        )
        #expect(keys == [stranger.id, ruled])
    }

    @Test func inTimeEachIsLookedAtClosely() {
        let rows = (0..<100).map { _ in row(.started, .started) }
        let containers = rows.map { container($0, isRunning: true) }
        var seen: Set<SandboxID> = []
        for slice in 0..<40 {
            let keys = planSurvey(rows: rows, containers: containers, ruled: [], slice: slice, slices: 40)
            #expect(seen.isDisjoint(with: keys))
            seen.formUnion(keys)
        }
        #expect(seen == Set(rows.map(\.id)))
        #expect(planSurvey(rows: rows, containers: containers, ruled: [], slice: nil, slices: 40) == seen)
    }
}
