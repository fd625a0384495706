import Docker
package import Domain
import Firewall
import FoundationEssentials
import Logging
package import Store

/// A container of this runner, as the list tells.
package struct SurveyedContainer: Sendable, Hashable {
    package var id: String
    package var owner: ContainerOwner
    package var isRunning: Bool
    /// See `ContainerFacts`.
    package var reached: LimitsReached?

    package init(id: String, owner: ContainerOwner, isRunning: Bool, reached: LimitsReached? = nil) {
        self.id = id
        self.owner = owner
        self.isRunning = isRunning
        self.reached = reached
    }
}

/// Which sandboxes need a pass, from one list of rows and one of containers. Pure; whoever is left out is as wanted, as far as
/// the lists tell.
///
/// - Parameters:
///   - ruled: sandboxes that have rules.
///   - slice: looks closer at one of `slices` parts of the sandboxes, so that in time each is looked at; nil looks at all
///     that run.
package func planSurvey(
    rows: [AssignedSandbox],
    containers: [SurveyedContainer],
    ruled: Set<SandboxID>,
    slice: Int?,
    slices: Int
) -> Set<SandboxID> {
    let byOwner = Dictionary(grouping: containers) { $0.owner.sandbox }
    var keys: Set<SandboxID> = []
    for row in rows where needsPass(row, byOwner[row.id] ?? [], slice: slice, slices: slices) { keys.insert(row.id) }
    let placed = Set(rows.map(\.id))
    for id in byOwner.keys where !placed.contains(id) { keys.insert(id) }
    return keys.union(ruled.subtracting(placed))
}

private func needsPass(_ row: AssignedSandbox, _ containers: [SurveyedContainer], slice: Int?, slices: Int) -> Bool {
    if row.desired == .destroyed || row.reported.generation < row.generation { return true }
    if containers.contains(where: { $0.owner.epoch != row.epoch }) { return true }
    let current = containers.first
    let isRunning = current?.isRunning ?? false
    if isRunning, isInSlice(row.id, slice, slices) { return true }
    switch row.reported.state {
    case .started:
        if let reached = current?.reached, reached != row.reported.effective.reached ?? LimitsReached() { return true }
        return !row.isTold || row.desired != .started || !isRunning || current?.id != row.reported.containerID
    case .stopped:
        let isAtRest = row.desired == .stopped || row.desired == .archived && !row.isArchiveReady
        return !isAtRest || isRunning
    case .error: return isRunning || row.desired != .started
    case .creating, .pullingSnapshot, .starting, .stopping, .resizing, .destroying: return true
    }
}

private func isInSlice(_ id: SandboxID, _ slice: Int?, _ slices: Int) -> Bool {
    guard let slice else { return true }
    return Int(id.uuid.uuid.15) % max(slices, 1) == slice
}

/// Compares all rows with all containers and the kernel's rules: one query, one list, one look at the firewall.
package actor RunnerSurvey {
    /// One of so many parts of what runs is looked at closely in each survey: with 15 s between surveys, all within 10 minutes.
    static let slices = 40

    private let parts: RunnerParts
    private var turn = 0
    private var hasAdopted = false
    private var wantsDeep = true
    private var halfMade: HalfMadeInterfaces

    package init(_ parts: RunnerParts) {
        self.parts = parts
        halfMade = HalfMadeInterfaces(bridge: parts.network.name)
    }

    /// The next survey looks closely at all that runs.
    package func wantDeep() { wantsDeep = true }

    /// One survey; returns the sandboxes that need a pass.
    ///
    /// The first one adopts what runs already, before any rule is touched. Throws if the engine or the database does not
    /// answer; the rules are then healed all the same.
    package func surveyOnce() async throws -> [SandboxID] {
        if hasAdopted { await healRules() }
        let isDeep = wantsDeep
        wantsDeep = false
        do {
            return try await survey(isDeep: isDeep)
        } catch {
            if isDeep { wantsDeep = true }
            throw error
        }
    }

    private func survey(isDeep: Bool) async throws -> [SandboxID] {
        let containers = try await containers()
        let rows = try await parts.queries.sandboxes()
        for row in rows { parts.holdings.hold(row.id) }
        if parts.firewall.adopt(rules(of: containers, rows)) || !hasAdopted { try await parts.firewall.verify() }
        hasAdopted = true
        try await parts.network.ensure()
        // Only an engine that was away leaves such behind.
        if isDeep || !halfMade.isEmpty { await removeHalfMade() }
        turn += 1
        let keys = planSurvey(
            rows: rows,
            containers: containers,
            ruled: Set(parts.firewall.keys.map(\.sandbox)),
            slice: isDeep ? nil : turn % Self.slices,
            slices: Self.slices
        )
        return Array(keys)
    }

    /// Whatever the database does: rules that somebody flushed are put back.
    private func healRules() async {
        do {
            try await parts.firewall.verify()
        } catch {
            parts.logger.warning("firewall could not be verified", metadata: ["error": "\(error)"])
        }
    }

    private func removeHalfMade() async {
        var interfaces = halfMade
        do {
            let removed = try await interfaces.collect(now: parts.now())
            if !removed.isEmpty {
                parts.logger.notice(
                    "interfaces that the engine had forgotten are removed",
                    metadata: ["interface.names": "\(removed.joined(separator: ","))"]
                )
            }
        } catch {
            parts.logger.warning("interfaces could not be looked at", metadata: ["error": "\(error)"])
        }
        halfMade = interfaces
    }

    private func containers() async throws -> [SurveyedContainer] {
        let listed = try await parts.engine.listContainers(labels: [ContainerLabel.runner: "\(parts.identity)"])
        parts.limits.keep(Set(listed.map(\.id)))
        var containers: [SurveyedContainer] = []
        for summary in listed {
            guard let owner = ContainerOwner(labels: summary.labels) else { continue }
            let isRunning = summary.status.holdsProcesses
            let reached = isRunning ? await parts.limits.reached(summary.id, now: parts.now()) : nil
            containers.append(SurveyedContainer(id: summary.id, owner: owner, isRunning: isRunning, reached: reached))
        }
        return containers
    }

    /// Every container that is there has rules: its row's, or, where no row explains it, such as let nothing out.
    private func rules(of containers: [SurveyedContainer], _ rows: [AssignedSandbox]) -> [PlacementKey: SandboxFirewall]
    {
        let byID = Dictionary(rows.map { ($0.id, $0) }) { first, _ in first }
        var rules: [PlacementKey: SandboxFirewall] = [:]
        for container in containers {
            let owner = container.owner
            let row = byID[owner.sandbox].flatMap { $0.epoch == owner.epoch ? $0 : nil }
            let wanted =
                row.flatMap { try? parts.blueprint.firewall(of: $0) }
                ?? (try? parts.blueprint.firewall(ofUnexplained: owner))
            if let wanted { rules[PlacementKey(owner.sandbox, epoch: owner.epoch)] = wanted }
        }
        return rules
    }
}

extension ContainerStatus {
    var holdsProcesses: Bool {
        switch self {
        case .running, .paused, .restarting: true
        case .created, .removing, .exited, .dead: false
        }
    }
}
