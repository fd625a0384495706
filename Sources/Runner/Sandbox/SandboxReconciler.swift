import Docker
package import Domain
import Logging
package import Reconciling
import Store

/// Brings one sandbox to what its row asks for. Everything is read anew in each pass.
package struct SandboxReconciler: Sendable {
    let observer: SandboxObserver
    let applier: SandboxApplier
    let parts: RunnerParts

    package init(_ parts: RunnerParts) {
        self.parts = parts
        observer = SandboxObserver(parts: parts)
        applier = SandboxApplier(parts: parts)
    }

    /// One pass. Throws what a later pass may heal.
    package func reconcile(_ id: SandboxID) async throws -> Outcome {
        guard let desired = try await parts.queries.sandbox(id) else { return try await clear(id) }
        parts.holdings.hold(id)
        let (observed, container) = try await observer.observe(desired)
        if try await restores(desired, observed) { return .recheck(after: .zero) }
        let plan = planSandbox(desired: desired, observed: observed)
        do {
            try await applier.apply(plan, to: desired, container: container)
            if !plan.isEmpty { parts.attempts.forget(id) }
            return plan.recheck.map { .recheck(after: $0) } ?? .settled
        } catch let wait as PullUnderway {
            return .recheck(after: wait.patience)
        } catch let wait as MountUnderway {
            return .recheck(after: wait.patience)
        } catch {
            return try await record(error, desired)
        }
    }

    /// Whether the container that it had is gone, and it starts from its last backup instead: its row says so now.
    private func restores(_ desired: AssignedSandbox, _ observed: SandboxObserved) async throws -> Bool {
        guard desired.desired == .started, observed.container.isLost, let lost = desired.reported.containerID else {
            return false
        }
        return try await parts.queries.restoreLost(desired.id, epoch: desired.epoch, container: lost)
    }

    /// Nothing places the sandbox here: nothing of it may stay, once that is certain.
    private func clear(_ id: SandboxID) async throws -> Outcome {
        let observed = try await observer.observeUnplaced(id)
        let plan = planUnplaced(observed: observed)
        guard !plan.isEmpty else {
            parts.forget(id)
            return .settled
        }
        if let pause = parts.holdings.pause(beforeRemoving: id, now: parts.now()) { return .recheck(after: pause) }
        // The last look before the only act that cannot be undone.
        guard try await parts.queries.sandbox(id) == nil else { return .recheck(after: .zero) }
        parts.logger.notice(
            "sandbox is not placed here any more; what is left of it is removed",
            metadata: ["sandbox.id": "\(id)"]
        )
        try await applier.clear(plan, of: id)
        parts.forget(id)
        return .settled
    }

    /// Decides a failure's fate. What is to be destroyed is tried for ever: nothing but its end is of use.
    private func record(_ error: any Error, _ desired: AssignedSandbox) async throws -> Outcome {
        if error is CancellationError || Task.isCancelled { throw error }
        if let own = error as? RunnerError {
            if own.code == .endedWhileStarting { return .recheck(after: .zero) }
            if own.code == .fenced { return .recheck(after: .zero) }
        }
        guard desired.desired != .destroyed else { throw error }
        let attempts = parts.attempts.count(desired.id, generation: desired.generation)
        switch judgeFailure(error, attempts: attempts, fullDisk: await fullDisk(error)) {
        case .retry:
            throw error
        case .settle(let reason, let recoverable):
            parts.logger.warning(
                "sandbox failed",
                metadata: ["sandbox.id": "\(desired.id)", "sandbox.reason": "\(reason)", "error": "\(error)"]
            )
            try await applier.fail(desired, reason: reason, recoverable: recoverable)
            // What still runs is stopped by the next pass.
            return .recheck(after: .zero)
        }
    }

    /// This host's disk, if it is what is full, and not the sandbox's own; the cache is asked to make room.
    private func fullDisk(_ error: any Error) async -> DiskUsage? {
        guard let error = error as? DockerError, error.kind == .noSpace, let usage = await parts.fullDisk() else {
            return nil
        }
        parts.room.call()
        return usage
    }
}

/// The image is being pulled; the puller wakes the sandbox. The patience is for the case that it cannot.
struct PullUnderway: Error {
    let patience: Duration = .seconds(15)
}
