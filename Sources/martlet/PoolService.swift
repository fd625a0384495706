import Postgres
import ServiceLifecycle

/// Runs a pool in a service group: first in, last out, so that every other service can still write while it stops.
struct PoolService: Service {
    let pool: PostgresPool

    func run() async {
        await withGracefulShutdownHandler {
            await pool.run()
        } onGracefulShutdown: {
            pool.shutDown()
        }
    }
}
