import Domain
import Postgres
import Store

/// Reads and changes sandboxes for one caller, and waits for what runners make of it.
struct SandboxService: Sendable {
    /// How often a decision is made anew because somebody else changed the sandbox meanwhile.
    static let attemptLimit = 5

    static let restless = APIError.conflict("others keep changing this sandbox. Try again")

    let database: any PostgresClient
    let feed: ChangeFeed
    let limits: APILimits

    /// Throws 404.
    func find(_ idOrName: String, for caller: Caller) async throws -> SandboxRecord {
        guard let found = try await database.sandboxes.find(idOrName, in: caller.organization) else {
            throw APIError.sandboxNotFound(idOrName)
        }
        return found
    }

    /// Decides on the sandbox as it stands, and writes only if it still stands so; else decides again.
    func change(
        _ idOrName: String,
        for caller: Caller,
        _ decide: (SandboxRecord) -> LifecycleDecision
    ) async throws -> SandboxRecord {
        var sandbox = try await find(idOrName, for: caller)
        for _ in 0..<Self.attemptLimit {
            switch decide(sandbox) {
            case .answerAsItIs: return sandbox
            case .refuse(let error): throw error
            case .apply(let change):
                let isWritten = try await database.sandboxes.apply(
                    change,
                    to: sandbox.id,
                    in: caller.organization,
                    generation: sandbox.generation,
                    by: caller.actor
                )
                if isWritten { return try await afterChange(sandbox, change, for: caller) }
                sandbox = try await find(sandbox.id.description, for: caller)
            }
        }
        throw Self.restless
    }

    /// Writes what no state stands in the way of.
    func set(_ idOrName: String, for caller: Caller, to change: SandboxChange) async throws -> SandboxRecord {
        let sandbox = try await find(idOrName, for: caller)
        let isWritten = try await database.sandboxes.apply(
            change,
            to: sandbox.id,
            in: caller.organization,
            by: caller.actor
        )
        guard isWritten else { throw LifecycleDecision.beingDestroyed(sandbox) }
        return try await find(sandbox.id.description, for: caller)
    }

    /// The row as it is now. A sandbox that nobody held is gone with its deletion: then it is answered as it was, destroyed.
    private func afterChange(
        _ sandbox: SandboxRecord,
        _ change: SandboxChange,
        for caller: Caller
    ) async throws -> SandboxRecord {
        if let current = try await database.sandboxes.find(sandbox.id, in: caller.organization) { return current }
        guard case .destroy = change else { throw APIError.sandboxNotFound(sandbox.id.description) }
        return sandbox.destroyed
    }

    /// Waits until the sandbox is settled, or the time is over, and answers it as it is then. A wake-up is a hint only: the
    /// row is read each time, and now and then without one.
    func hold(
        _ sandbox: SandboxRecord,
        for caller: Caller,
        atMost limit: Duration,
        until isSettled: (SandboxRecord) -> Bool
    ) async throws -> SandboxRecord {
        guard !isSettled(sandbox), let subscription = feed.subscribe(to: sandbox.id) else { return sandbox }
        defer { feed.unsubscribe(subscription, from: sandbox.id) }
        let deadline = ContinuousClock.now + limit
        var latest = sandbox
        while true {
            guard let current = try await database.sandboxes.find(sandbox.id, in: caller.organization) else {
                return latest.destroyed
            }
            latest = current
            let left = deadline - .now
            if isSettled(latest) || left <= .zero { return latest }
            await subscription.next(within: min(left, limits.holdPollInterval))
            try Task.checkCancellation()
        }
    }
}

extension SandboxRecord {
    /// Nothing more happens to get it started.
    var isSettledStarting: Bool {
        switch state {
        case .started, .error, .buildFailed, .destroyed, .destroying, .unknown: true
        case .creating, .restoring, .stopped, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot,
            .archived, .archiving, .resizing, .snapshotting, .forking, .pausing, .paused, .resuming:
            false
        }
    }

    /// Nothing more happens to get it stopped.
    var isSettledStopping: Bool {
        switch state {
        case .stopped, .error, .buildFailed, .destroyed, .unknown, .archived, .paused: true
        case .creating, .restoring, .started, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot,
            .archiving, .resizing, .snapshotting, .forking, .pausing, .resuming, .destroying:
            false
        }
    }
}
