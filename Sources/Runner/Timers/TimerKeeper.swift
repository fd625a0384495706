package import Domain
package import Logging
package import Store

/// Lets the database apply its timers to this runner's sandboxes, and takes in sandboxes that wait or were orphaned.
package struct TimerKeeper: Sendable {
    private let queries: RunnerQueries
    private let pace: RunnerPace
    private let logger: Logger

    package init(queries: RunnerQueries, pace: RunnerPace, logger: Logger) {
        self.queries = queries
        self.pace = pace
        self.logger = logger
    }

    /// Idle timers and deadlines, until cancelled. `changed` is called when any was due.
    package func runTimers(changed: () -> Void) async {
        await every(pace.timerInterval, "timers") {
            if try await queries.expireTimers() > 0 { changed() }
        }
    }

    /// Orphans of dead runners, until cancelled. `taken` gets what is now placed here.
    package func runReclaims(taken: ([SandboxID]) -> Void) async {
        await every(pace.reclaimInterval, "reclaim") {
            taken(try await queries.reclaimOrphans(atMost: pace.claimLimit))
        }
    }

    /// Waiting sandboxes: whenever `wakes` says that one waits or that capacity came free, and now and then.
    package func runClaims(wakes: AsyncStream<Void>, taken: @Sendable ([SandboxID]) -> Void) async {
        await withDiscardingTaskGroup { group in
            let (merged, merge) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
            group.addTask { for await wake in wakes { merge.yield(wake) } }
            group.addTask { await every(pace.resyncInterval, "claim tick") { merge.yield() } }
            for await _ in merged { await attempt("claim") { try await claimAll(taken) } }
            group.cancelAll()
        }
    }

    private func claimAll(_ taken: ([SandboxID]) -> Void) async throws {
        while true {
            let claimed = try await queries.claimPending(atMost: pace.claimLimit)
            taken(claimed)
            if claimed.count < pace.claimLimit { return }
        }
    }

    private func every(_ interval: Duration, _ what: String, _ body: () async throws -> Void) async {
        while (try? await Task.sleep(for: interval)) != nil { await attempt(what, body) }
    }

    /// Failures are for the next turn to heal.
    private func attempt(_ what: String, _ body: () async throws -> Void) async {
        do {
            try await body()
        } catch {
            if !Task.isCancelled {
                logger.warning("a timer's turn failed", metadata: ["timer.name": "\(what)", "error": "\(error)"])
            }
        }
    }
}
