import Docker
import Domain
import Firewall
import NIOCore
import Store

/// Looks at what is on the host. A look that fails throws; it never says "absent".
struct SandboxObserver: Sendable {
    let parts: RunnerParts

    /// What is here of a sandbox placed here, and its container as the engine tells it.
    func observe(_ desired: AssignedSandbox) async throws -> (SandboxObserved, ContainerInspection?) {
        let key = PlacementKey(desired.id, epoch: desired.epoch)
        let container = try await inspect(key)
        var observed = SandboxObserved()
        // The first epoch has none before it.
        if desired.epoch > 1 {
            observed.stale = try await containers(of: desired.id).filter { $0.epoch != desired.epoch }
        }
        observed.rules = parts.firewall.observation(of: key, wanted: try? parts.blueprint.firewall(of: desired))
        if let container { observed.container = try await classify(container, desired) }
        return (observed, container)
    }

    /// What is here of a sandbox that no row places here.
    func observeUnplaced(_ id: SandboxID) async throws -> SandboxObserved {
        var observed = SandboxObserved()
        observed.stale = try await containers(of: id)
        if parts.firewall.keys.contains(where: { $0.sandbox == id }) { observed.rules = .differing }
        return observed
    }

    /// The container of a placement; nil when there is none. Keeps the ingress' table fresh.
    func inspect(_ key: PlacementKey) async throws -> ContainerInspection? {
        let version = parts.table.version
        do {
            let found = try await parts.engine.inspectContainer(ContainerName.of(key.sandbox, epoch: key.epoch))
            if isOurs(found.labels, key) { parts.table.note(found, for: key, askedAt: version) }
            return found
        } catch let error as DockerError where error.kind == .notFound {
            return nil
        }
    }

    private func containers(of id: SandboxID) async throws -> [StaleContainer] {
        let labels = [ContainerLabel.sandbox: "\(id)", ContainerLabel.runner: "\(parts.identity)"]
        return try await parts.engine.listContainers(labels: labels).compactMap { summary in
            ContainerOwner(labels: summary.labels).map { StaleContainer(id: summary.id, epoch: $0.epoch) }
        }
    }

    private func isOurs(_ labels: [String: String], _ key: PlacementKey) -> Bool {
        guard let owner = ContainerOwner(labels: labels) else { return false }
        return owner.sandbox == key.sandbox && owner.epoch == key.epoch && owner.runner == parts.identity
    }

    private func classify(_ found: ContainerInspection, _ desired: AssignedSandbox) async throws -> ContainerObservation
    {
        guard isOurs(found.labels, PlacementKey(desired.id, epoch: desired.epoch)) else {
            return .foreign(id: found.id)
        }
        var facts = ContainerFacts(id: found.id, run: found.run)
        facts.hasWantedLimits = await hasWantedLimits(found, desired)
        facts.hasWantedShape = found.labels[ContainerLabel.shape] == parts.blueprint.shape(of: desired)
        switch found.state.status {
        case .created: return .created(facts)
        // For the moment of a capture.
        case .paused where parts.pauses.isHeld(found.id): return .running(facts)
        case .paused: return .paused(facts)
        case .running:
            parts.limits.note(found)
            facts.reached = await parts.limits.reached(found.id, now: parts.now())
            return .running(facts)
        case .restarting: return .frozen(facts)
        case .exited: return .exited(facts, ContainerEnd(try await verdict(found, desired)))
        case .removing, .dead: return .unusable(facts)
        }
    }

    /// Limits that the engine refused under this generation are not asked for again.
    private func hasWantedLimits(_ found: ContainerInspection, _ desired: AssignedSandbox) async -> Bool {
        let disk = await parts.diskBytes(of: found)
        if parts.blueprint.hasWantedLimits(found.limits, disk: disk, desired) { return true }
        return desired.reported.generation == desired.generation && desired.reported.effective.note != nil
    }

    // MARK: - Ends

    /// A run ended by itself if it was reported as running, or if this process saw it begin and nobody wished it to end.
    private func verdict(_ found: ContainerInspection, _ desired: AssignedSandbox) async throws -> ContainerEnd.Verdict
    {
        guard desired.desired == .started, let run = found.run, isUnexpected(run, desired) else { return .expected }
        // The engine says so of any process of the run, also of one that ended long before: 137 is an end by SIGKILL.
        if found.state.isOOMKilled, found.state.exitCode == 137 { return .giveUp(reason: Self.memoryReason(desired)) }
        if let pause = parts.crashes.pause(afterEndOf: run, of: desired.id, now: parts.now()) {
            return .restart(after: pause)
        }
        return .giveUp(reason: await crashReason(found))
    }

    private func isUnexpected(_ run: String, _ desired: AssignedSandbox) -> Bool {
        switch desired.reported.state {
        case .started, .starting, .resizing, .creating, .pullingSnapshot:
            desired.reported.effective.run == run || parts.crashes.knows(run, of: desired.id)
        case .stopping, .stopped, .error, .destroying:
            false
        }
    }

    static func memoryReason(_ desired: AssignedSandbox) -> String {
        "out of memory: the sandbox used all of its \(desired.memoryGib) GiB and the kernel ended it; start it again, with more memory if it needs that"
    }

    private func crashReason(_ found: ContainerInspection) async -> String {
        let tail = await logTail(found.id)
        let minutes = CrashLedger.window.components.seconds / 60
        let trouble = found.state.error.isEmpty ? "" : " (\(found.state.error))"
        let count = "the sandbox ended by itself \(CrashLedger.restartsLimit + 1) times within \(minutes) minutes"
        return
            "\(count); last exit code \(found.state.exitCode)\(trouble)\(tail); look at its entrypoint, then start it again"
    }

    /// The last lines that the container printed, for a reason; empty when there are none.
    func logTail(_ id: String) async -> String {
        guard let tail = try? await parts.engine.logTail(id, lines: 5, limitBytes: 600) else { return "" }
        let text = String(buffer: tail.standardError.readableBytes > 0 ? tail.standardError : tail.standardOutput)
        var plain = ""
        for scalar in text.unicodeScalars {
            plain.unicodeScalars.append(scalar.value < 32 || scalar.value == 127 ? " " : scalar)
        }
        return plain.allSatisfy(\.isWhitespace) ? "" : "; it last said: \(plain.suffix(600))"
    }
}
