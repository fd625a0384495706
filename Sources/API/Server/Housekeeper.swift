import Logging
import Postgres
import ServiceLifecycle
import Store

/// Has the database do, now and then, what is due and needs no runner: time to live, queue time-outs, late or unused
/// snapshots, old rows. Every API
/// has one; the database lets one work at a time.
struct Housekeeper: Service {
    let database: any PostgresClient
    let interval: Duration
    let logger: Logger

    func run() async {
        await cancelWhenGracefulShutdown {
            repeat { await housekeepOnce() } while (try? await Task.sleep(for: interval)) != nil
        }
    }

    /// Each chore by itself: one that fails keeps no other from being done.
    private func housekeepOnce() async {
        await attempt("timers") { try await database.sandboxes.housekeep() }
        await attempt("snapshots") { try await database.snapshots.housekeep() }
        await attempt("builds") { try await database.builds.housekeep() }
        await attempt("captures") { try await database.captures.housekeep() }
        await attempt("ssh access") { try await database.sshAccess.purge() }
        await attempt("events") { try await database.sandboxes.purgeEvents() }
        await attempt("volumes") { try await database.volumes.purge() }
    }

    private func attempt(_ chore: String, _ body: () async throws -> Int) async {
        do {
            let changed = try await body()
            if changed > 0 { logger.info("kept house", metadata: ["chore": "\(chore)", "rows": "\(changed)"]) }
        } catch is CancellationError {
        } catch {
            logger.warning("cannot keep house", metadata: ["chore": "\(chore)", "error": "\(error)"])
        }
    }
}
