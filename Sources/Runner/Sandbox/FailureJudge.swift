package import Docker
package import Domain
import Firewall
import Synchronization

/// What becomes of a pass that failed.
package enum FailureFate: Sendable, Hashable {
    /// Try again, later each time; the state's deadline ends it.
    case retry
    /// The row gets this error and keeps it until somebody changes the row.
    case settle(reason: String, recoverable: Bool)
}

/// Decides whether a failure may pass by itself. `attempts` counts the sandbox's failures under one generation, from 1.
///
/// - Parameter fullDisk: how full this host's disk is, if it is what is full.
///
/// That Docker, Postgres or the internal registry is away never becomes an error here: only the deadline of the sandbox's state ends that.
package func judgeFailure(_ error: any Error, attempts: Int, fullDisk: DiskUsage? = nil) -> FailureFate {
    switch error {
    case let error as DockerError: judgeEngine(error, attempts, fullDisk)
    case let error as FirewallError: judgeFirewall(error, attempts)
    case let error as RunnerError: judgeOwn(error, attempts)
    default: .retry
    }
}

/// Failures of a kind that often passes, until they are believed.
package let failuresLimit = 4

/// The same for a host whose disk is full: for some seconds its cache makes room.
package let fullHostsLimit = 7

private func judgeEngine(_ error: DockerError, _ attempts: Int, _ disk: DiskUsage?) -> FailureFate {
    switch error.kind {
    case .unavailable, .timeout:
        .retry
    case .noSpace where disk != nil:
        attempts < fullHostsLimit
            ? .retry
            : .settle(
                reason:
                    "\(error): \(fullDisk(disk)): remove images or sandboxes there, or give it more (the operator), and recover it",
                recoverable: true
            )
    case .noSpace:
        .settle(
            reason:
                "\(error): the sandbox's own disk is full, or its image does not fit the runner's: resize its disk, upon which it is started, or remove images there (the operator) and recover it",
            recoverable: true
        )
    case .badRequest, .unauthorized:
        .settle(reason: "\(error)", recoverable: false)
    case .notFound, .conflict, .server:
        attempts < failuresLimit
            ? .retry : .settle(reason: "\(error) (tried \(attempts) times); recover it to retry", recoverable: true)
    }
}

private func judgeFirewall(_ error: FirewallError, _ attempts: Int) -> FailureFate {
    if !error.isRetryable {
        return .settle(
            reason: "the network policy cannot be enforced: \(error.message); change it and recover the sandbox",
            recoverable: true
        )
    }
    guard attempts >= failuresLimit else { return .retry }
    return .settle(
        reason:
            "the network rules could not be installed (tried \(attempts) times), so the sandbox was not started: \(error.message)",
        recoverable: true
    )
}

private func judgeOwn(_ error: RunnerError, _ attempts: Int) -> FailureFate {
    switch error.code {
    case .addressHeld, .changedMeanwhile, .endedWhileStarting, .fenced, .registryAway: .retry
    case .daemonSilent, .imageLost, .imageTooLarge: .settle(reason: error.message, recoverable: true)
    case .noImage, .noAddress: .settle(reason: error.message, recoverable: false)
    case .misconfigured, .stateDirectory, .diskQuota, .volume:
        attempts < failuresLimit ? .retry : .settle(reason: error.message, recoverable: true)
    }
}

/// What it means for a sandbox that an image of the internal registry could not be pulled.
package enum PullVerdict: Sendable, Hashable {
    /// Judged like any other failure.
    case failed
    /// The registry will be put right.
    case registryAway
    /// It does not have the image any more.
    case lost
}

package func judgePull(_ error: DockerError) -> PullVerdict {
    switch error.kind {
    case .noSpace, .unavailable, .timeout: .failed
    case .notFound: .lost
    case .conflict, .badRequest, .unauthorized, .server: .registryAway
    }
}

/// The image is gone from the internal registry, for good unless somebody acts.
///
/// - Parameters:
///   - isBackup: it alone has the sandbox's files.
///   - snapshots: how many are made anew for it.
package func imageLost(_ image: InternalImage, isBackup: Bool, snapshots: Int) -> RunnerError {
    let advice =
        if isBackup {
            "and it alone has the sandbox's files: put back the registry's data (the operator) and recover the sandbox, or delete it"
        } else if snapshots > 0 {
            "its snapshot is made anew: recover the sandbox when that is active"
        } else {
            "activate its snapshot, and recover the sandbox when that is active"
        }
    return RunnerError(
        .imageLost,
        isBackup
            ? "the sandbox's backup \(image) is gone from Martlet's registry, \(advice)"
            : "the image \(image) is gone from Martlet's registry: \(advice)"
    )
}

/// Counts failures of each sandbox under its newest generation.
package final class AttemptLedger: Sendable {
    private let attempts = Mutex<[SandboxID: (generation: Int64, count: Int)]>([:])

    package init() {}

    /// One more failure; returns how many that makes.
    package func count(_ sandbox: SandboxID, generation: Int64) -> Int {
        attempts.withLock { attempts in
            let before = attempts[sandbox].flatMap { $0.generation == generation ? $0.count : nil } ?? 0
            attempts[sandbox] = (generation, before + 1)
            return before + 1
        }
    }

    package func forget(_ sandbox: SandboxID) {
        attempts.withLock { $0[sandbox] = nil }
    }
}
