package import Domain
package import Logging
package import Postgres

/// What wakes a runner. It only wakes: rows tell the truth.
package enum RunnerNotice: Sendable, Hashable {
    /// Anything may have been missed: look at everything.
    case resync
    /// This sandbox of the runner changed.
    case sandbox(SandboxID)
    /// A sandbox waits for a runner, or capacity came free.
    case pending
    /// This volume, which the runner has mounted, changed.
    case volume(VolumeID)
    /// A volume is to be made or removed in S3.
    case volumeWork
    /// A snapshot waits for a runner, became active, or is gone.
    case snapshots
}

/// A runner's ear at the database: the channels `runner_<id>`, `pending` and `snapshots`.
package struct RunnerFeed: Sendable {
    private static let pendingChannel = "pending"
    private static let snapshotsChannel = "snapshots"
    private let listener: PostgresListener

    /// Connects to nothing before `run()`.
    package init(_ configuration: PostgresConfiguration, runner: RunnerID, logger: Logger) {
        let channels = ["runner_\(runner)", Self.pendingChannel, Self.snapshotsChannel]
        listener = PostgresListener(configuration, channels: channels, logger: logger)
    }

    /// Listens until its task is cancelled, reconnecting by itself. To be called once.
    package func run() async { await listener.run() }

    /// Hands over each notice; for one caller. Returns when the feed ended or the task is cancelled.
    package func follow(_ body: (RunnerNotice) -> Void) async {
        for await event in listener.events {
            if let notice = Self.notice(event) { body(notice) }
        }
    }

    /// Nil for a payload of a kind not known here: of a newer schema, perhaps.
    static func notice(_ event: PostgresListenerEvent) -> RunnerNotice? {
        switch event {
        case .resync: return .resync
        case .notification(channel: pendingChannel, "volume"): return .volumeWork
        case .notification(channel: pendingChannel, _): return .pending
        case .notification(channel: snapshotsChannel, _): return .snapshots
        case .notification(_, let payload):
            let words = payload.split(separator: ":", maxSplits: 1)
            guard words.count == 2 else { return nil }
            return switch words[0] {
            case "sandbox": SandboxID(words[1]).map(RunnerNotice.sandbox)
            case "volume": VolumeID(words[1]).map(RunnerNotice.volume)
            default: nil
            }
        }
    }
}
