package import Logging
package import Store

/// Tells the database, again and again, that this runner lives.
///
/// When it cannot, everything here goes on as it is; when it can again, the runner registers anew (the database may be another
/// one, restored) and looks at everything.
package struct LeaseKeeper: Sendable {
    private let queries: RunnerQueries
    private let registration: RunnerRegistration
    private let pace: RunnerPace
    private let logger: Logger

    package init(queries: RunnerQueries, registration: RunnerRegistration, pace: RunnerPace, logger: Logger) {
        self.queries = queries
        self.registration = registration
        self.pace = pace
        self.logger = logger
    }

    /// Registers and takes the lease. Throws if the database does not answer.
    package func beginOnce() async throws {
        try await queries.register(registration)
        try await queries.renewLease(for: pace.leaseLife)
    }

    /// Renews until its task is cancelled. `recovered` is called when it works again after it had not.
    package func run(recovered: () async -> Void) async {
        var isLost = false
        while (try? await Task.sleep(for: isLost ? pace.renewInterval / 5 : pace.renewInterval)) != nil {
            do {
                if isLost { try await beginOnce() } else { try await queries.renewLease(for: pace.leaseLife) }
                if isLost {
                    logger.notice("lease is renewed again")
                    await recovered()
                }
                isLost = false
            } catch {
                if Task.isCancelled { return }
                if !isLost {
                    logger.warning("lease cannot be renewed; sandboxes go on running", metadata: ["error": "\(error)"])
                }
                isLost = true
            }
        }
    }
}
