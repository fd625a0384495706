package import Domain
package import Store

/// One thing to do for a sandbox. Each is idempotent: done twice, or after a crash in its middle, it ends in the same place.
package enum SandboxAction: Sendable, Hashable {
    /// Writes a transitional state.
    case report(ObservedState)
    /// Removes containers of other epochs, running or not, and their rules.
    case removeStale([StaleContainer])
    /// The image is on this host afterwards.
    case ensureImage
    /// The wanted rules are in the kernel afterwards.
    case installRules
    /// Its volumes are mounted on the host afterwards, and wait for the container to start.
    case prepareVolumes
    case createContainer
    case startContainer
    /// Its volumes are seen in the container afterwards, which runs nothing of the user's before its daemon is awaited.
    case showVolumes
    /// Its volumes are not seen by any container of it any more.
    case hideVolumes
    /// Its daemon answers afterwards.
    case awaitDaemon
    /// Its daemon, which runs, knows its settings afterwards; unless it does not answer.
    case tellDaemon
    case updateLimits
    /// Its processes go on afterwards.
    case resumeContainer
    case stopContainer(force: Bool)
    case removeContainer
    /// Only ever planned for what has no container.
    case removeRules
    /// Writes which limits the run has reached.
    case reportReached(LimitsReached)
    /// Writes that actual equals desired, and what is in force.
    case settle(ObservedState)
    /// Writes an error that stays until somebody changes the row.
    case fail(reason: String, recoverable: Bool)
    /// Nothing is left here: the booking ends.
    case release
}

/// Steps in order; the actions of one step do not depend on each other and may run together.
package struct SandboxPlan: Sendable, Hashable {
    package var steps: [[SandboxAction]] = []
    /// When to look again although nothing wakes the key.
    package var recheck: Duration?

    package init() {}

    package var isEmpty: Bool { steps.isEmpty }
    package var actions: [SandboxAction] { steps.flatMap { $0 } }

    fileprivate mutating func then(_ actions: SandboxAction...) {
        steps.append(actions)
    }
}

/// Decides what to do for a sandbox placed here. Pure and total.
///
/// What it guarantees, whatever was found:
/// - a container that is not ours is never touched;
/// - what is to be destroyed or stopped is never started;
/// - rules are installed in a step before each start, and removed only in a step after the container;
/// - a failure that was reported under the newest generation is left alone, but nothing of it stays running; unless only a
///   deadline made it one, while the engine was away: what runs then is taken back.
package func planSandbox(desired: AssignedSandbox, observed: SandboxObserved) -> SandboxPlan {
    var plan = SandboxPlan()
    if !observed.stale.isEmpty { plan.then(.removeStale(observed.stale)) }
    switch desired.desired {
    case .started: planStarted(desired, observed, &plan)
    case .stopped: planStopped(desired, observed, &plan)
    case .archived: planArchived(desired, observed, &plan)
    case .destroyed: planDestroyed(desired, observed, &plan)
    }
    return plan
}

/// Decides what to do for a sandbox that is not placed here: nothing of it may stay.
package func planUnplaced(observed: SandboxObserved) -> SandboxPlan {
    var plan = SandboxPlan()
    if !observed.stale.isEmpty { plan.then(.removeStale(observed.stale)) }
    if observed.rules != .absent { plan.then(.removeRules) }
    return plan
}

// MARK: - Destroyed
// Nothing is reported on the way: the view shows `destroying` as soon as it is wanted.

private func planDestroyed(_ desired: AssignedSandbox, _ observed: SandboxObserved, _ plan: inout SandboxPlan) {
    switch observed.container {
    case .absent, .foreign: break
    case .created, .running, .paused, .frozen, .exited, .unusable: plan.then(.removeContainer)
    }
    if observed.rules != .absent { plan.then(.removeRules) }
    if !desired.volumes.isEmpty { plan.then(.hideVolumes) }
    plan.then(.release)
}

// MARK: - Archived
// Its container is the only place of its files until the row says that its backup has them.

private func planArchived(_ desired: AssignedSandbox, _ observed: SandboxObserved, _ plan: inout SandboxPlan) {
    if desired.isArchiveReady { planDestroyed(desired, observed, &plan) } else { planStopped(desired, observed, &plan) }
}

// MARK: - Stopped

private func planStopped(_ desired: AssignedSandbox, _ observed: SandboxObserved, _ plan: inout SandboxPlan) {
    switch observed.container {
    case .absent, .foreign:
        if observed.rules != .absent { plan.then(.removeRules) }
    case .created(let facts), .exited(let facts, _):
        if observed.rules != .current { plan.then(.installRules) }
        if !facts.hasWantedLimits { plan.adjustLimits(desired) }
    case .running, .paused, .frozen:
        // What is paused hears no signal.
        if case .paused = observed.container { plan.then(.resumeContainer) }
        if desired.reported.state.mayBecome(.stopping), desired.reported.state != .stopping {
            plan.then(.report(.stopping))
        }
        plan.then(.stopContainer(force: desired.forceStop || desired.hasFailed))
        if !desired.volumes.isEmpty { plan.then(.hideVolumes) }
    case .unusable:
        plan.then(.removeContainer)
        if observed.rules != .absent { plan.then(.removeRules) }
    }
    if !plan.isEmpty || desired.reported.state != .stopped || desired.reported.generation < desired.generation {
        plan.then(.settle(.stopped))
    }
}

// MARK: - Started

private func planStarted(_ desired: AssignedSandbox, _ observed: SandboxObserved, _ plan: inout SandboxPlan) {
    if desired.hasFailed { return planFailed(desired, observed, &plan) }
    switch observed.container {
    case .absent:
        plan.create(desired)
    case .foreign(let id):
        plan.then(.fail(reason: foreignReason(desired, id), recoverable: true))
    case .created(let facts):
        if facts.hasWantedShape {
            plan.start(desired, facts)
        } else {
            plan.then(.removeContainer)
            plan.create(desired)
        }
    case .running(let facts):
        planRunning(desired, observed, facts, &plan)
    case .paused(let facts):
        plan.then(.resumeContainer)
        planRunning(desired, observed, facts, &plan)
    case .frozen(let facts):
        plan.then(.stopContainer(force: true))
        plan.start(desired, facts)
    case .exited(let facts, let end):
        switch end.verdict {
        case .expected, .restart(after: .zero): plan.start(desired, facts)
        case .restart(let pause): plan.waitToRestart(desired, pause)
        case .giveUp(let reason): plan.then(.fail(reason: reason, recoverable: true))
        }
    case .unusable:
        plan.then(.removeContainer)
        plan.create(desired)
    }
}

/// It failed under the newest wish: nothing may run, and nothing else is done. A deadline only says that nobody looked in time.
private func planFailed(_ desired: AssignedSandbox, _ observed: SandboxObserved, _ plan: inout SandboxPlan) {
    switch observed.container {
    case .running(let facts) where desired.reported.hasTimedOut: planRunning(desired, observed, facts, &plan)
    case .running, .paused, .frozen: plan.then(.stopContainer(force: true))
    case .absent, .foreign, .created, .exited, .unusable: break
    }
}

private func planRunning(
    _ desired: AssignedSandbox,
    _ observed: SandboxObserved,
    _ facts: ContainerFacts,
    _ plan: inout SandboxPlan
) {
    let reported = desired.reported
    let isKnownRun =
        reported.containerID == facts.id && reported.effective.run != nil && reported.effective.run == facts.run
    guard isKnownRun, reported.state == .started || reported.state == .resizing else {
        var first = plan.startingReport(desired) + [.installRules]
        if !facts.hasWantedLimits { first.append(.updateLimits) }
        plan.steps.append(first)
        plan.awaitAndSettle(desired)
        return
    }
    if observed.rules != .current { plan.then(.installRules) }
    if !facts.hasWantedLimits { plan.adjustLimits(desired) }
    if !desired.isTold { plan.then(.tellDaemon) }
    if !plan.isEmpty || reported.state == .resizing || reported.generation < desired.generation {
        plan.then(.settle(.started))
    } else if let reached = facts.reached, reached != reported.effective.reached ?? LimitsReached() {
        plan.then(.reportReached(reached))
    }
}

private func foreignReason(_ desired: AssignedSandbox, _ id: String) -> String {
    "the container name \(ContainerName.of(desired.id, epoch: desired.epoch)) is taken on the host by a container that is not "
        + "Martlet's (\(id.prefix(12))); remove or rename that container, then recover the sandbox"
}

extension SandboxPlan {
    fileprivate mutating func create(_ desired: AssignedSandbox) {
        then(.ensureImage)
        let reporting = prepareVolumes(desired)
        steps.append(reporting + [.installRules, .createContainer])
        startAndSettle(desired)
    }

    fileprivate mutating func start(_ desired: AssignedSandbox, _ facts: ContainerFacts) {
        var first = prepareVolumes(desired) + [.installRules]
        if !facts.hasWantedLimits { first.append(.updateLimits) }
        steps.append(first)
        startAndSettle(desired)
    }

    /// Before volumes are prepared the row says that it starts, so that nobody takes the run that ended for one that needs them.
    /// Returns the report that is still to be made.
    private mutating func prepareVolumes(_ desired: AssignedSandbox) -> [SandboxAction] {
        let reporting = startingReport(desired)
        if desired.volumes.isEmpty { return reporting }
        if !reporting.isEmpty { steps.append(reporting) }
        then(.prepareVolumes)
        return []
    }

    private mutating func startAndSettle(_ desired: AssignedSandbox) {
        then(.startContainer)
        awaitAndSettle(desired)
    }

    fileprivate mutating func awaitAndSettle(_ desired: AssignedSandbox) {
        if !desired.volumes.isEmpty { then(.showVolumes) }
        then(.awaitDaemon)
        then(.settle(.started))
    }

    fileprivate mutating func waitToRestart(_ desired: AssignedSandbox, _ pause: Duration) {
        let reporting = startingReport(desired)
        if !reporting.isEmpty { steps.append(reporting) }
        recheck = pause
    }

    fileprivate mutating func adjustLimits(_ desired: AssignedSandbox) {
        let state = desired.reported.state
        if state.mayBecome(.resizing), state != .resizing { then(.report(.resizing)) }
        then(.updateLimits)
    }

    /// `creating` and `pulling_snapshot` stay until the sandbox is started, so that the usual way writes nothing in between.
    fileprivate func startingReport(_ desired: AssignedSandbox) -> [SandboxAction] {
        switch desired.reported.state {
        case .creating, .pullingSnapshot, .starting, .destroying: []
        case .started, .stopping, .stopped, .resizing, .error: [.report(.starting)]
        }
    }
}

extension AssignedSandbox {
    /// It failed under the newest wish.
    package var hasFailed: Bool { reported.state == .error && reported.generation >= generation }

    /// The daemon of the reported run knows its settings.
    package var isTold: Bool { reported.effective.recordsTerminals ?? false == recordsTerminals }
}
