import Domain
import Runner
import Store
import Testing

/// A sandbox's world, small enough to try all of it: the engine, the kernel's rules, the row.
private struct Model {
    enum Phase: CaseIterable {
        case absent, foreign, created, createdOtherwise, running, paused, frozen, exited, crashed, gaveUp, dead
    }

    enum Volumes { case hidden, prepared, shown }

    var desired: AssignedSandbox
    var phase: Phase
    var hasWantedLimits: Bool
    var stale: Bool
    var rules: RulesObservation
    var run: String?
    var reached: LimitsReached?
    /// Whether the daemon that runs was told to record terminals, if it was told anything.
    var told: Bool?
    var placed = true
    var volumes = Volumes.hidden
    var violations: [String] = []

    var observed: SandboxObserved {
        var observed = SandboxObserved()
        var facts = ContainerFacts(id: "c", run: run)
        facts.hasWantedLimits = hasWantedLimits
        facts.hasWantedShape = phase != .createdOtherwise
        facts.reached = reached
        observed.container =
            switch phase {
            case .absent: .absent
            case .foreign: .foreign(id: "f")
            case .created, .createdOtherwise: .created(facts)
            case .running: .running(facts)
            case .paused: .paused(facts)
            case .frozen: .frozen(facts)
            case .exited: .exited(facts, ContainerEnd(.expected))
            case .crashed: .exited(facts, ContainerEnd(.restart(after: .zero)))
            case .gaveUp: .exited(facts, ContainerEnd(.giveUp(reason: "it ended too often")))
            case .dead: .unusable(facts)
            }
        observed.stale = stale ? [StaleContainer(id: "s", epoch: desired.epoch - 1)] : []
        observed.rules = rules
        return observed
    }

    var hasContainer: Bool {
        switch phase {
        case .absent, .foreign: false
        case .created, .createdOtherwise, .running, .paused, .frozen, .exited, .crashed, .gaveUp, .dead: true
        }
    }

    var holdsProcesses: Bool {
        switch phase {
        case .running, .paused, .frozen: true
        case .absent, .foreign, .created, .createdOtherwise, .exited, .crashed, .gaveUp, .dead: false
        }
    }

    mutating func expect(_ condition: Bool, _ what: String) {
        if !condition { violations.append(what) }
    }

    mutating func write(_ state: ObservedState) {
        expect(desired.reported.state.mayBecome(state), "\(desired.reported.state) was reported \(state)")
        desired.reported.state = state
        desired.reported.hasTimedOut = false
    }

    mutating func apply(_ action: SandboxAction) {
        if phase == .foreign {
            switch action {
            case .createContainer, .startContainer, .resumeContainer, .stopContainer, .removeContainer, .updateLimits:
                violations.append("touched a stranger's container: \(action)")
            case .report, .removeStale, .ensureImage, .installRules, .prepareVolumes, .showVolumes, .hideVolumes,
                .awaitDaemon, .tellDaemon, .removeRules, .reportReached, .settle, .fail, .release:
                break
            }
        }
        switch action {
        case .report(let state): write(state)
        case .removeStale: stale = false
        case .ensureImage: break
        case .installRules:
            expect(!stale, "rules were installed while another epoch's container was there")
            rules = .current
        case .prepareVolumes:
            expect(phase != .running && phase != .foreign, "took volumes away from what is \(phase)")
            volumes = .prepared
        case .showVolumes:
            expect(phase == .running, "showed volumes to what is \(phase)")
            volumes = .shown
        case .hideVolumes:
            expect(phase != .running && phase != .frozen, "hid volumes from what is \(phase)")
            volumes = .hidden
        case .createContainer:
            expect(volumes != .hidden || desired.volumes.isEmpty, "created before its volumes were prepared")
            expect(phase == .absent, "created over \(phase)")
            phase = .created
            hasWantedLimits = true
            run = nil
        case .startContainer:
            expect(desired.desired == .started, "started what is to be \(desired.desired)")
            expect(rules == .current, "started before its rules")
            expect(volumes == .prepared || desired.volumes.isEmpty, "started while its volumes were \(volumes)")
            expect([.created, .exited, .crashed].contains(phase), "started what is \(phase)")
            phase = .running
            run = "new run"
            told = nil
        case .awaitDaemon, .tellDaemon:
            expect(phase == .running, "waited for the daemon of what is \(phase)")
            expect(
                volumes == .shown || desired.volumes.isEmpty || action == .tellDaemon,
                "let users in before the volumes"
            )
            told = desired.recordsTerminals
        case .updateLimits:
            expect(hasContainer, "limits of nothing")
            hasWantedLimits = true
        case .resumeContainer:
            expect(phase == .paused, "resumed what is \(phase)")
            phase = .running
        case .stopContainer:
            expect(holdsProcesses, "stopped what is \(phase)")
            phase = .exited
        case .removeContainer:
            expect(hasContainer, "removed what is \(phase)")
            expect(
                desired.desired != .archived || desired.isArchiveReady || phase == .dead,
                "removed the only place of its files"
            )
            phase = .absent
        case .removeRules:
            expect(!hasContainer && !stale, "rules were removed while a container was there")
            rules = .absent
        case .reportReached(let reached):
            expect(phase == .running && desired.reported.effective.run == run, "counts of another run")
            write(desired.reported.state)
            desired.reported.effective.reached = reached
        case .settle(let state):
            write(state)
            desired.reported.generation = desired.generation
            desired.reported.containerID = hasContainer ? "c" : desired.reported.containerID
            desired.reported.effective.run = state == .started ? run : nil
            expect(state != .started || told == desired.recordsTerminals, "settled before its daemon was told")
            desired.reported.effective.recordsTerminals = state == .started ? told : nil
            expect((state == .started) == (phase == .running), "settled \(state) while \(phase)")
        case .fail:
            write(.error)
            desired.reported.generation = desired.generation
            desired.reported.effective.run = nil
        case .release:
            expect(
                desired.desired == .destroyed || desired.desired == .archived && desired.isArchiveReady,
                "released what is wanted"
            )
            expect(!hasContainer && !stale && rules == .absent, "released with leftovers")
            placed = false
        }
    }

    /// What holds when nothing is left to do.
    var isAtRest: Bool {
        if !placed { return true }
        switch desired.desired {
        case .destroyed: return false
        case .archived where desired.isArchiveReady: return false
        case .stopped, .archived: return !holdsProcesses && desired.reported.state == .stopped
        case .started:
            if desired.hasFailed { return !holdsProcesses }
            return phase == .running && desired.reported.state == .started && rules == .current && hasWantedLimits
                && (reached == nil || reached == desired.reported.effective.reached) && desired.isTold
        }
    }
}

private let somethingReached = {
    var reached = LimitsReached()
    reached.memoryKills = 1
    return reached
}()

/// Every pair of wish and finding.
private func allModels() -> [Model] {
    var models: [Model] = []
    for wish in DesiredState.allCases {
        for state in ObservedState.allCases where state != .destroying || wish == .destroyed {
            for phase in Model.Phase.allCases {
                for bits in 0..<(wish == .archived ? 64 : state == .error ? 256 : 128) {
                    var desired = AssignedSandbox(id: SandboxID.random(), image: "i", toolboxToken: "t")
                    desired.desired = wish
                    desired.epoch = 2
                    desired.generation = 5
                    desired.forceStop = bits & 1 != 0
                    desired.isArchiveReady = wish == .archived && bits & 1 != 0
                    // Matters only to what is to run, as force does only to what is not.
                    desired.recordsTerminals = bits & 1 != 0
                    desired.reported.state = state
                    desired.reported.generation = bits & 2 != 0 ? 5 : 4
                    desired.reported.hasTimedOut = bits & 128 != 0
                    // Half of them mount a volume, whatever else they are.
                    if bits.nonzeroBitCount % 2 == 1 {
                        desired.volumes = [SandboxVolume(volumeId: .random(), mountPath: "/v")]
                    }
                    desired.reported.containerID = bits & 4 != 0 ? "c" : nil
                    desired.reported.effective.run = bits & 8 != 0 ? "r" : nil
                    for rules in [RulesObservation.absent, .differing, .current] {
                        let hasRun = phase != .absent && phase != .created && phase != .createdOtherwise
                        models.append(
                            Model(
                                desired: desired,
                                phase: phase,
                                hasWantedLimits: bits & 16 != 0,
                                stale: bits & 32 != 0,
                                rules: rules,
                                run: hasRun ? "r" : nil,
                                reached: bits & 64 != 0 ? somethingReached : nil,
                                told: false
                            )
                        )
                    }
                }
            }
        }
    }
    return models
}

@Suite struct SandboxPlanTests {
    static let passesLimit = 3

    @Test func everyPairConvergesSafely() {
        var failures: [String] = []
        for start in allModels() where failures.count < 5 {
            var model = start
            var passes = 0
            while model.placed {
                let plan = planSandbox(desired: model.desired, observed: model.observed)
                if plan.isEmpty { break }
                passes += 1
                for action in plan.actions { model.apply(action) }
                if passes > Self.passesLimit { break }
            }
            if passes > Self.passesLimit { failures.append("does not converge: \(start)") }
            if !model.isAtRest { failures.append("rests at \(model.phase) \(model.desired.reported): from \(start)") }
            failures += model.violations.prefix(1).map { "\($0): from \(start)" }
        }
        #expect(failures.isEmpty, "\(failures.prefix(3).joined(separator: "\n"))")
    }

    /// A crash after any action leaves something from which the next pass goes on to the same rest.
    @Test func everyPlanMayBeCutAnywhere() {
        var failures: [String] = []
        for start in allModels() where failures.count < 5 {
            let plan = planSandbox(desired: start.desired, observed: start.observed)
            for cut in 0..<max(plan.actions.count, 1) {
                var model = start
                for action in plan.actions.prefix(cut) { model.apply(action) }
                for _ in 0..<Self.passesLimit where model.placed {
                    for action in planSandbox(desired: model.desired, observed: model.observed).actions {
                        model.apply(action)
                    }
                }
                if !model.isAtRest || !model.violations.isEmpty {
                    failures.append("cut after \(cut): \(model.violations) from \(start)")
                }
            }
        }
        #expect(failures.isEmpty, "\(failures.prefix(3).joined(separator: "\n"))")
    }

    /// Actions of one step run together, so none may need another one's effect.
    @Test func rulesComeInAStepBeforeTheStart() {
        for model in allModels() {
            let steps = planSandbox(desired: model.desired, observed: model.observed).steps
            guard let start = steps.firstIndex(where: { $0.contains(.startContainer) }) else { continue }
            let rules = steps.firstIndex { $0.contains(.installRules) }
            #expect(rules.map { $0 < start } == true, "\(steps)")
            #expect(steps[start] == [.startContainer])
        }
    }

    @Test func theUsualWayWritesOnce() {
        let desired = AssignedSandbox(id: .random(), image: "i", toolboxToken: "t")
        let plan = planSandbox(desired: desired, observed: SandboxObserved())
        #expect(
            plan.steps == [
                [.ensureImage], [.installRules, .createContainer], [.startContainer], [.awaitDaemon],
                [.settle(.started)],
            ]
        )
    }

    @Test func volumesAreThereBeforeTheUsersProgramsAre() {
        var desired = AssignedSandbox(id: .random(), image: "i", toolboxToken: "t")
        desired.volumes = [SandboxVolume(volumeId: .random(), mountPath: "/v")]
        desired.reported.state = .stopped
        #expect(
            planSandbox(desired: desired, observed: SandboxObserved()).steps == [
                [.ensureImage], [.report(.starting)], [.prepareVolumes], [.installRules, .createContainer],
                [.startContainer], [.showVolumes], [.awaitDaemon], [.settle(.started)],
            ]
        )
    }

    /// A sandbox whose row says so of run "r", and whose container is in this run, with its rules.
    private func reported(_ state: ObservedState, running run: String) -> (AssignedSandbox, SandboxObserved) {
        var desired = AssignedSandbox(id: .random(), image: "i", toolboxToken: "t")
        desired.reported.state = state
        desired.reported.generation = 1
        desired.reported.containerID = "c"
        desired.reported.effective.run = "r"
        var observed = SandboxObserved()
        observed.container = .running(ContainerFacts(id: "c", run: run))
        observed.rules = .current
        return (desired, observed)
    }

    @Test func whatIsAsWantedIsLeftAlone() {
        let (desired, observed) = reported(.started, running: "r")
        #expect(planSandbox(desired: desired, observed: observed).isEmpty)
    }

    @Test func aChangedSettingIsToldToWhatRuns() {
        var (desired, observed) = reported(.started, running: "r")
        desired.recordsTerminals = true
        let telling: [[SandboxAction]] = [[.tellDaemon], [.settle(.started)]]
        #expect(planSandbox(desired: desired, observed: observed).steps == telling)
        desired.reported.effective.recordsTerminals = true
        #expect(planSandbox(desired: desired, observed: observed).isEmpty)
        desired.recordsTerminals = false
        #expect(planSandbox(desired: desired, observed: observed).steps == telling)
        observed.container = .running(ContainerFacts(id: "c", run: "other"))
        #expect(
            !planSandbox(desired: desired, observed: observed).actions.contains(.tellDaemon),
            "a greeting is enough"
        )
    }

    /// The engine was away until the deadline; what it kept running is not for a deadline to kill.
    @Test func whatADeadlineFailedButStillRunsIsTakenBack() {
        let failed = reported(.error, running: "r")
        var desired = failed.0
        let observed = failed.1
        #expect(planSandbox(desired: desired, observed: observed).steps == [[.stopContainer(force: true)]])
        desired.reported.hasTimedOut = true
        #expect(
            planSandbox(desired: desired, observed: observed).steps == [
                [.report(.starting), .installRules], [.awaitDaemon], [.settle(.started)],
            ]
        )
    }

    @Test func aRestartBehindOurBackIsSeen() {
        let (desired, observed) = reported(.started, running: "other")
        #expect(
            planSandbox(desired: desired, observed: observed).steps == [
                [.report(.starting), .installRules], [.awaitDaemon], [.settle(.started)],
            ]
        )
    }
}
