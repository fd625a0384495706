package import Domain
package import Logging
package import Store
import Synchronization

/// Collects which sandboxes were used and writes it in batches: one statement for each interval.
package final class ActivityReporter: Sendable {
    private static let batchLimit = 5_000
    private let used = Mutex<Set<SandboxID>>([])
    private let sink: any ActivitySink
    private let limits: ProxyLimits
    private let log: Logger

    package init(sink: any ActivitySink, limits: ProxyLimits, log: Logger) {
        self.sink = sink
        self.limits = limits
        self.log = log
    }

    /// Notes use of `sandbox`. Beyond the bound a mark is dropped; the next request makes it again.
    package func mark(_ sandbox: SandboxID) {
        used.withLock { used in
            if used.count < limits.activityEntriesLimit { used.insert(sandbox) }
        }
    }

    /// Writes until cancelled, and once more then.
    package func run() async {
        while !Task.isCancelled {
            try? await Task.sleep(for: limits.activityInterval)
            await reportOnce()
        }
    }

    /// Writes what was noted since the last time. Marks of a failed write are kept.
    package func reportOnce() async {
        var rest = Array(
            used.withLock { used in
                defer { used = [] }
                return used
            }
        )[...]
        while !rest.isEmpty {
            let batch = Array(rest.prefix(Self.batchLimit))
            do {
                try await sink.reportActivity(of: batch)
                rest = rest.dropFirst(batch.count)
            } catch {
                log.warning("activity not written", metadata: ["activity.count": "\(rest.count)", "error": "\(error)"])
                for sandbox in rest { mark(sandbox) }
                return
            }
        }
    }
}
