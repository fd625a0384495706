/// What one pass of a reconciler found, when it did not throw.
package enum Outcome: Sendable, Hashable {
    /// Actual equals desired, or there is nothing to do; look again when something wakes the key.
    case settled
    /// Look again after that time, whatever happens; this is no failure.
    case recheck(after: Duration)
}

/// Whether trying again can help.
package enum RetryAdvice: Sendable, Hashable {
    /// Try again, later each time.
    case backoff
    /// Do not try by yourself: somebody must change something first, and that will wake the key.
    case never
}

/// An error that knows whether the same pass may succeed later. Errors that do not conform back off.
package protocol RetryAdvising: Error {
    var retry: RetryAdvice { get }
}

/// How long to wait after the nth failure in a row: `first`, doubling, at most `cap`, with jitter.
package struct Backoff: Sendable, Hashable {
    package var first: Duration
    package var cap: Duration
    /// The shortest time between a failure and the next try, even when something wakes the key: without it, a pass that
    /// wakes itself by what it does before failing would spin.
    package var wakeFloor: Duration

    package init(first: Duration = .milliseconds(100), cap: Duration = .seconds(30), wakeFloor: Duration = .seconds(1))
    {
        self.first = first
        self.cap = cap
        self.wakeFloor = wakeFloor
    }

    /// Somewhere in the upper half of the nominal delay; `random` is in 0..<1.
    package func delay(failures: Int, random: Double) -> Duration {
        nominal(failures: failures) * (0.5 + random / 2)
    }

    /// How soon after a failure a wake may run the key again.
    func floor(failures: Int) -> Duration {
        min(nominal(failures: failures), wakeFloor)
    }

    private func nominal(failures: Int) -> Duration {
        let doublings = min(max(failures - 1, 0), 30)
        return min(first * (1 << doublings), cap)
    }
}
