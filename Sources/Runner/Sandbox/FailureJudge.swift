import Docker
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
/// That Docker, Postgres or the internal registry is away never becomes an error here: only the deadline of the sandbox's state ends that.
package func judgeFailure(_ error: any Error, attempts: Int) -> FailureFate {
    switch error {
    case let error as DockerError: judgeEngine(error, attempts)
    case let error as FirewallError: judgeFirewall(error, attempts)
    case let error as RunnerError: judgeOwn(error, attempts)
    default: .retry
    }
}

/// Failures of a kind that often passes, until they are believed.
package let failuresLimit = 4

private func judgeEngine(_ error: DockerError, _ attempts: Int) -> FailureFate {
    switch error.kind {
    case .unavailable, .timeout:
        .retry
    case .noSpace:
        .settle(
            reason:
                "\(error): the disk is full (the host's, or the sandbox's own quota); delete files or raise the disk, then recover it",
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
