import Domain
import Logging
import Postgres
import ServiceLifecycle
import Store
import Synchronization

/// Writes `last_used_at` of keys now and then, many in one statement, so that no request waits for it.
final class KeyUseRecorder: Service {
    private let used = Mutex<Set<APIKeyID>>([])
    private let database: any PostgresClient
    private let interval: Duration
    private let logger: Logger

    init(database: any PostgresClient, limits: APILimits, logger: Logger) {
        self.database = database
        interval = limits.keyUseInterval
        self.logger = logger
    }

    func note(_ key: APIKeyID) { used.withLock { _ = $0.insert(key) } }

    func run() async {
        await cancelWhenGracefulShutdown { [self] in
            while (try? await Task.sleep(for: interval)) != nil { await flush() }
        }
    }

    /// Writes what was noted. A failure loses the notes and nothing else.
    func flush() async {
        let keys = used.withLock { used in
            defer { used = [] }
            return Array(used)
        }
        guard !keys.isEmpty else { return }
        do {
            try await database.apiKeys.touch(keys)
        } catch {
            logger.warning("cannot note the use of keys", metadata: ["error": "\(error)"])
        }
    }
}
