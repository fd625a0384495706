import Docker
import Domain
import Logging
import NIOPosix
import Reconciling
import Store

/// Does what a plan says: one small function for each action, each safe to repeat.
struct SandboxApplier: Sendable {
    let parts: RunnerParts

    /// What the actions of a pass learn for those after them.
    struct Findings {
        var image: ImageInspection?
        var folders: ImageFolders?
        var containerID: String?
        var container: ContainerInspection?
        var daemonVersion: String?
        var limitsNote: String?
        /// What the daemon was told.
        var recordsTerminals: Bool?

        mutating func take(_ other: Findings) {
            image = other.image ?? image
            folders = other.folders ?? folders
            containerID = other.containerID ?? containerID
            container = other.container ?? container
            daemonVersion = other.daemonVersion ?? daemonVersion
            limitsNote = other.limitsNote ?? limitsNote
            recordsTerminals = other.recordsTerminals ?? recordsTerminals
        }
    }

    /// Does the steps in order. The first error ends it.
    func apply(_ plan: SandboxPlan, to desired: AssignedSandbox, container: ContainerInspection?) async throws {
        var findings = Findings(containerID: container?.id, container: container)
        for step in plan.steps { findings.take(try await run(step, desired, findings)) }
    }

    /// The actions of a step run together. One that fails does not cut off the others: a request that is cut may still be done
    /// by the engine after the pass, where nobody expects it. All have ended when this returns or throws.
    private func run(_ step: [SandboxAction], _ desired: AssignedSandbox, _ known: Findings) async throws -> Findings {
        if step.count == 1 { return try await perform(step[0], desired, known) }
        let results = await withTaskGroup(of: Result<Findings, any Error>.self) { group in
            for action in step { group.addTask { await self.attempt(action, desired, known) } }
            return await group.reduce(into: []) { $0.append($1) }
        }
        var learned = Findings()
        for result in results { learned.take(try result.get()) }
        return learned
    }

    private func attempt(_ action: SandboxAction, _ desired: AssignedSandbox, _ known: Findings) async -> Result<
        Findings, any Error
    > {
        do {
            return .success(try await perform(action, desired, known))
        } catch {
            return .failure(error)
        }
    }

    private func perform(_ action: SandboxAction, _ desired: AssignedSandbox, _ known: Findings) async throws
        -> Findings
    {
        try await FaultPoint.hit("before-\(action.name)")
        let learned = try await act(action, desired, known)
        try await FaultPoint.hit("after-\(action.name)")
        return learned
    }

    private func act(_ action: SandboxAction, _ desired: AssignedSandbox, _ known: Findings) async throws -> Findings {
        switch action {
        case .report(let state): try await report(SandboxReport(state), desired)
        case .removeStale(let stale): try await removeStale(stale, of: desired.id)
        case .ensureImage: return try await ensureImage(desired)
        case .installRules: try await installRules(desired)
        case .prepareVolumes: try await SandboxVolumes(parts: parts).prepare(desired)
        case .showVolumes: try await showVolumes(desired)
        case .hideVolumes:
            try await SandboxVolumes(parts: parts).hide(
                desired,
                removing: desired.desired == .destroyed || desired.isArchiveReady
            )
        case .createContainer: return try await createContainer(desired, known)
        case .startContainer: try await startContainer(desired, known)
        case .awaitDaemon: return try await awaitDaemon(desired)
        case .tellDaemon: return try await tellDaemon(desired)
        case .updateLimits: return try await updateLimits(desired, known)
        case .resumeContainer: try await resumeContainer(known)
        case .stopContainer(let force): try await stopContainer(desired, known, force: force)
        case .removeContainer: try await removeContainer(desired, known)
        case .removeRules: try await parts.firewall.remove(desired.id)
        case .reportReached(let reached): try await reportReached(reached, desired, known)
        case .settle(let state): try await settle(state, desired, known)
        case .fail(let reason, let recoverable): try await fail(desired, reason: reason, recoverable: recoverable)
        case .release: try await release(desired)
        }
        return Findings()
    }

    /// Removes what is left of a sandbox that is not placed here.
    func clear(_ plan: SandboxPlan, of id: SandboxID) async throws {
        for action in plan.actions {
            switch action {
            case .removeStale(let stale): try await removeStale(stale, of: id)
            case .removeRules: try await parts.firewall.remove(id)
            case .report, .ensureImage, .installRules, .prepareVolumes, .createContainer, .startContainer, .showVolumes,
                .hideVolumes, .awaitDaemon, .tellDaemon, .updateLimits, .resumeContainer, .stopContainer,
                .removeContainer, .reportReached, .settle, .fail, .release:
                preconditionFailure("an unplaced sandbox is never given \(action.name)")
            }
        }
    }

    // MARK: - Rows

    func report(_ report: SandboxReport, _ desired: AssignedSandbox) async throws {
        guard try await parts.queries.report(report, of: desired.id, epoch: desired.epoch) else {
            throw RunnerError(.fenced, "sandbox \(desired.id) is not held under epoch \(desired.epoch) any more")
        }
    }

    /// The longest reason that is written.
    private static let reasonLimit = 2000

    /// Writes an error that stays until the row is changed.
    func fail(_ desired: AssignedSandbox, reason: String, recoverable: Bool) async throws {
        parts.crashes.forget(desired.id)
        parts.attempts.forget(desired.id)
        var report = SandboxReport(.error)
        report.errorReason = String(reason.prefix(Self.reasonLimit))
        report.recoverable = recoverable
        report.generation = desired.generation
        var effective = desired.reported.effective
        effective.run = nil
        report.effective = effective
        try await self.report(report, desired)
    }

    private func settle(_ state: ObservedState, _ desired: AssignedSandbox, _ known: Findings) async throws {
        var report = SandboxReport(state)
        report.generation = desired.generation
        report.daemonVersion = known.daemonVersion
        var effective = EffectiveLimits()
        if let container = known.container {
            let disk = await parts.diskBytes(of: container)
            effective = parts.blueprint.effective(container.limits, disk: disk, desired)
            effective.note = known.limitsNote
            effective.run = state == .started ? container.run : nil
            let before = desired.reported.effective
            let isSameRun = effective.run == before.run
            if isSameRun { effective.reached = before.reached }
            if state == .started {
                effective.recordsTerminals = known.recordsTerminals ?? (isSameRun ? before.recordsTerminals : nil)
            }
            report.containerID = container.id
            report.beginsRun = state == .started && !isSameRun
        } else {
            effective.requestedCpu = desired.cpu
            effective.requestedMemoryGib = desired.memoryGib
            effective.requestedDiskGib = desired.diskGib
        }
        report.effective = effective
        try await self.report(report, desired)
    }

    private func reportReached(_ reached: LimitsReached, _ desired: AssignedSandbox, _ known: Findings) async throws {
        var report = SandboxReport(desired.reported.state)
        var effective = desired.reported.effective
        effective.reached = reached
        report.effective = effective
        try await self.report(report, desired)
        if let id = known.containerID { parts.limits.noteReport(id, now: parts.now()) }
    }

    private func release(_ desired: AssignedSandbox) async throws {
        _ = try await parts.queries.release(desired.id, epoch: desired.epoch)
        parts.forget(desired.id)
    }

    // MARK: - Rules

    private func installRules(_ desired: AssignedSandbox) async throws {
        let key = PlacementKey(desired.id, epoch: desired.epoch)
        try await parts.firewall.ensure(try parts.blueprint.firewall(of: desired), for: key)
    }

    private func showVolumes(_ desired: AssignedSandbox) async throws {
        let container = try await inspectRunning(desired)
        try await SandboxVolumes(parts: parts).show(desired, to: Int(container.state.processID))
    }

    // MARK: - Container

    private func removeStale(_ stale: [StaleContainer], of id: SandboxID) async throws {
        for container in stale {
            try await removeCompletely(container.id)
            let key = PlacementKey(id, epoch: container.epoch)
            parts.table.drop(key)
            try await parts.firewall.remove(id, epoch: container.epoch)
        }
    }

    private func createContainer(_ desired: AssignedSandbox, _ known: Findings) async throws -> Findings {
        guard let image = known.image else { preconditionFailure("an image is ensured before each create") }
        try await judgeRoom(for: image, desired)
        var specification = try parts.blueprint.specification(of: desired, image: image)
        // Set where there are none too, or an image's own label would count.
        specification.labels[ContainerLabel.folders] = known.folders?.label ?? ""
        try await parts.requireRoom(to: "create the container")
        do {
            let name = ContainerName.of(desired.id, epoch: desired.epoch)
            return Findings(containerID: try await parts.engine.createContainer(named: name, specification).id)
        } catch let error as DockerError where error.kind == .notFound || error.kind == .conflict {
            // The name is taken, or image or network went away: the next look tells.
            try await parts.network.ensure()
            throw error
        }
    }

    private func startContainer(_ desired: AssignedSandbox, _ known: Findings) async throws {
        guard let id = known.containerID else { preconditionFailure("only what exists is started") }
        try await parts.requireRoom(to: "start the container")
        do {
            try await makeFolders(of: id, desired, known)
            try await parts.engine.startContainer(id)
        } catch let error as DockerError where error.message.contains("endpoint with name") {
            throw try await forgettingStaleEndpoint(of: desired, id, error)
        } catch let error as DockerError where error.kind == .notFound || error.message.contains("network") {
            try await parts.network.ensure()
            throw error
        } catch let error as DockerError where error.message.contains("already exists") {
            await endHalfStarted(id)
            throw error
        }
    }

    /// Before the first start: it has them afterwards, unless somebody takes them away.
    private func makeFolders(of id: String, _ desired: AssignedSandbox, _ known: Findings) async throws {
        let found = known.container.flatMap { container in
            container.state.startedAt == nil ? ImageFolders(label: container.labels[ContainerLabel.folders]) : nil
        }
        let mounts = desired.volumes.map(\.mountPath) + [DaemonCopy.mountPoint]
        try await (known.folders ?? found)?.make(in: id, except: mounts, parts.engine)
        try await FaultPoint.hit("folders-made")
    }

    /// An engine whose disk was full when it started this container keeps an end of its network that it does not know any more, and
    /// lets go of that only once the container is gone. One that never ran has nothing to lose: it is made anew.
    private func forgettingStaleEndpoint(of desired: AssignedSandbox, _ id: String, _ error: DockerError) async throws
        -> any Error
    {
        guard try await parts.engine.inspectContainer(id).state.startedAt == nil else {
            return DockerError(
                operation: error.operation,
                kind: error.kind,
                status: error.status,
                message:
                    "\(error.message): restart the Docker Engine (the operator), under which sandboxes keep running"
            )
        }
        try await removeCompletely(id)
        try await parts.network.releaseStaleEndpoint(of: ContainerName.of(desired.id, epoch: desired.epoch))
        return error
    }

    private func endHalfStarted(_ container: String) async {
        let killed = await HalfStartedContainer.end(container)
        guard killed > 0 else { return }
        parts.logger.warning(
            "processes of a container that the engine had forgotten are killed",
            metadata: ["container.id": "\(container)", "process.count": "\(killed)"]
        )
    }

    private func updateLimits(_ desired: AssignedSandbox, _ known: Findings) async throws -> Findings {
        guard let id = known.containerID else { return Findings() }
        var learned = Findings()
        do {
            try await parts.engine.updateContainer(id, parts.blueprint.wantedLimits(of: desired))
        } catch let error as DockerError
            where error.kind == .badRequest || error.kind == .server || error.kind == .conflict
        {
            learned.limitsNote = "the engine refused the new limits, the old ones stay in force: \(error.message)"
            parts.logger.warning("limits refused", metadata: ["sandbox.id": "\(desired.id)", "error": "\(error)"])
        }
        do {
            try await setDiskLimit(id, desired)
        } catch let error as RunnerError where error.code == .diskQuota {
            learned.limitsNote = "the disk keeps its old limit: \(error.message)"
            parts.logger.warning(
                "disk limit not changed",
                metadata: ["sandbox.id": "\(desired.id)", "error": "\(error)"]
            )
        }
        learned.container = try await inspect(desired)
        return learned
    }

    private func setDiskLimit(_ id: String, _ desired: AssignedSandbox) async throws {
        guard let quotas = parts.blueprint.host.quotas else { return }
        let bytes = parts.blueprint.wantedDiskBytes(of: desired)
        try await NIOThreadPool.singleton.runIfActive {
            if quotas.quota(of: id)?.limitBytes != bytes { try quotas.setLimit(bytes, of: id) }
        }
    }

    private func resumeContainer(_ known: Findings) async throws {
        guard let id = known.containerID else { return }
        try await parts.engine.resumeContainer(id)
    }

    private func stopContainer(_ desired: AssignedSandbox, _ known: Findings, force: Bool) async throws {
        guard let id = known.containerID else { return }
        do {
            if force {
                try await kill(id)
            } else {
                try await parts.engine.stopContainer(id, grace: parts.blueprint.limits.stopGrace)
            }
        } catch let error as DockerError where error.kind == .notFound {
            // Gone already; the next pass sees it.
        }
        parts.crashes.forget(desired.id)
        parts.table.forget(desired.id)
    }

    private static let killDeadline: Duration = .seconds(30)

    private func kill(_ id: String) async throws {
        do {
            try await parts.engine.killContainer(id)
        } catch let error as DockerError where error.kind == .conflict {
            return  // Not running.
        }
        _ = try await parts.engine.waitContainer(id, within: Self.killDeadline)
    }

    private func removeContainer(_ desired: AssignedSandbox, _ known: Findings) async throws {
        if let id = known.containerID { try await removeCompletely(id) }
        parts.table.drop(PlacementKey(desired.id, epoch: desired.epoch))
        parts.crashes.forget(desired.id)
    }

    /// The container is gone when this returns.
    private func removeCompletely(_ id: String) async throws {
        do {
            try await parts.engine.removeContainer(id, force: true)
        } catch let error as DockerError where error.kind == .notFound {
            // Somebody else removed it.
        } catch let error as DockerError where error.kind == .conflict {
            try await waitUntilGone(id)
        }
        await endHalfStarted(id)
    }

    private static let removalDeadline: Duration = .seconds(30)

    /// Somebody else's removal is under way.
    private func waitUntilGone(_ id: String) async throws {
        let deadline = ContinuousClock.now + Self.removalDeadline
        while ContinuousClock.now < deadline {
            do {
                _ = try await parts.engine.inspectContainer(id)
            } catch let error as DockerError where error.kind == .notFound {
                return
            }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw RunnerError(.changedMeanwhile, "container \(id) is still being removed after \(Self.removalDeadline)")
    }

    func inspect(_ desired: AssignedSandbox) async throws -> ContainerInspection {
        let observer = SandboxObserver(parts: parts)
        guard let found = try await observer.inspect(PlacementKey(desired.id, epoch: desired.epoch)) else {
            throw RunnerError(.changedMeanwhile, "the container of sandbox \(desired.id) disappeared")
        }
        return found
    }
}

extension SandboxAction {
    /// Names its fault points.
    var name: String {
        switch self {
        case .report(let state): "report-\(state.rawValue)"
        case .removeStale: "remove-stale"
        case .ensureImage: "ensure-image"
        case .installRules: "install-rules"
        case .prepareVolumes: "prepare-volumes"
        case .createContainer: "create-container"
        case .startContainer: "start-container"
        case .showVolumes: "show-volumes"
        case .hideVolumes: "hide-volumes"
        case .awaitDaemon: "await-daemon"
        case .tellDaemon: "tell-daemon"
        case .updateLimits: "update-limits"
        case .resumeContainer: "resume-container"
        case .stopContainer: "stop-container"
        case .removeContainer: "remove-container"
        case .removeRules: "remove-rules"
        case .reportReached: "report-reached"
        case .settle(let state): "settle-\(state.rawValue)"
        case .fail: "fail"
        case .release: "release"
        }
    }
}
