/// The bounds of a controller.
package struct ControllerConfiguration: Sendable, Hashable {
    /// Passes at once, of different keys.
    package var concurrency: Int
    /// The longest a pass may take; then it is cancelled and counts as failed.
    package var passLimit: Duration
    /// How long running passes may go on after the controller was cancelled.
    package var drainLimit: Duration
    /// Every key is looked at at least that often.
    package var resyncInterval: Duration
    package var backoff: Backoff

    package init(
        concurrency: Int = 8,
        passLimit: Duration = .seconds(120),
        drainLimit: Duration = .seconds(20),
        resyncInterval: Duration = .seconds(30),
        backoff: Backoff = Backoff()
    ) {
        self.concurrency = concurrency
        self.passLimit = passLimit
        self.drainLimit = drainLimit
        self.resyncInterval = resyncInterval
        self.backoff = backoff
    }
}

/// A controller's counters since its start, and what it holds now.
package struct ControllerSnapshot: Sendable, Hashable {
    package internal(set) var settled = 0
    package internal(set) var rechecks = 0
    /// Passes that threw, timeouts and terminal ones included.
    package internal(set) var failures = 0
    /// Failures that said not to retry.
    package internal(set) var terminalFailures = 0
    /// Passes that took longer than the limit.
    package internal(set) var timeouts = 0
    /// Passes cut off by the end of the controller.
    package internal(set) var abandoned = 0
    package internal(set) var resyncs = 0
    package internal(set) var resyncFailures = 0
    package internal(set) var ready = 0
    package internal(set) var delayed = 0
    package internal(set) var running = 0

    /// All passes that ended.
    package var passes: Int { settled + rechecks + failures + abandoned }
}
