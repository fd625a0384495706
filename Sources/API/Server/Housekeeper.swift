import Logging
import Postgres
import ServiceLifecycle
import Store

/// Has the database do, now and then, what is due and needs no runner: time to live, queue time-outs, old rows. Every API
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

    private func housekeepOnce() async {
        do {
            let changed = try await database.sandboxes.housekeep()
            if changed > 0 { logger.info("kept house", metadata: ["rows": "\(changed)"]) }
        } catch is CancellationError {
        } catch {
            logger.warning("cannot keep house", metadata: ["error": "\(error)"])
        }
    }
}
