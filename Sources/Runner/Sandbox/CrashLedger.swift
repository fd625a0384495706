package import Domain
import Synchronization

/// Remembers containers that ended by themselves, and says when they may be started again.
///
/// Only in memory: after a restart of the runner a sandbox has its tries anew.
package final class CrashLedger: Sendable {
    /// So many ends by itself within ``window`` are answered by a start; one more is an error.
    package static let restartsLimit = 5
    package static let window: Duration = .seconds(600)

    private struct History {
        var ends: [Duration] = []
        var lastRun: String?
        /// Runs that this process saw begin, of which no end is known yet.
        var begun: String?
    }

    private let histories = Mutex<[SandboxID: History]>([:])

    package init() {}

    /// A run of the sandbox was seen.
    package func noteRun(_ run: String, of sandbox: SandboxID) {
        histories.withLock { $0[sandbox, default: History()].begun = run }
    }

    /// Whether this process saw the run begin, so that its end is news.
    package func knows(_ run: String, of sandbox: SandboxID) -> Bool {
        histories.withLock { $0[sandbox]?.begun == run }
    }

    /// The run ended because that was wanted; or somebody asked for a new start: what was before does not count.
    package func forget(_ sandbox: SandboxID) {
        histories.withLock { $0[sandbox] = nil }
    }

    /// Counts the end of `run`, once however often it is asked; nil when there were too many, else the pause before a start.
    package func pause(afterEndOf run: String, of sandbox: SandboxID, now: Duration) -> Duration? {
        histories.withLock { histories in
            var history = histories[sandbox, default: History()]
            defer { histories[sandbox] = history }
            history.ends.removeAll { now - $0 > Self.window }
            if history.lastRun != run {
                history.lastRun = run
                history.ends.append(now)
            }
            guard history.ends.count <= Self.restartsLimit, let last = history.ends.last else {
                return history.ends.isEmpty ? .zero : nil
            }
            return max(.zero, Self.pause(after: history.ends.count) - (now - last))
        }
    }

    /// The first start follows at once, for the usual cause is that Docker was restarted; then 1, 2, 4, 8 s.
    static func pause(after ends: Int) -> Duration {
        ends <= 1 ? .zero : .seconds(1 << min(ends - 2, 6))
    }
}
