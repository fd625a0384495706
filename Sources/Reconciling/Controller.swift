package import Logging
import Synchronization

/// A level-triggered controller: it gives keys, never events, to a reconciler.
///
/// A key runs when a source names it, when somebody enqueues it, when its own last pass asked for it, and at every resync; one
/// pass per key at a time. Failures back off per key. See `README.md`.
package final class Controller<Key: Hashable & Sendable>: Sendable {
    package let name: String
    private let configuration: ControllerConfiguration
    private let time: Timekeeper
    private let logger: Logger
    private let sources: [Source<Key>]
    private let listKeys: @Sendable () async throws -> [Key]
    private let reconcile: @Sendable (Key) async throws -> Outcome

    private struct State {
        var queue: WorkQueueStateMachine<Key>
        var counters = ControllerSnapshot()
        var passes: [Key: Task<Void, Never>] = [:]
        var isDrainOver = false
        var isResyncUrgent = false
    }

    private let state: Mutex<State>
    /// Something to run may have come up; the dispatcher waits for it.
    private let work = WakeSignal()
    /// A resync is wanted; the resync loop waits for it.
    private let resyncWanted = WakeSignal()

    /// - Parameters:
    ///   - listKeys: all keys there are, desired or observed; called at the start, periodically, and when a source says so.
    ///   - reconcile: one pass; must re-read everything about the key, and heed cancellation.
    package init(
        name: String,
        configuration: ControllerConfiguration = ControllerConfiguration(),
        clock: any Clock<Duration> = ContinuousClock(),
        logger: Logger,
        sources: [Source<Key>] = [],
        listKeys: @escaping @Sendable () async throws -> [Key],
        reconcile: @escaping @Sendable (Key) async throws -> Outcome
    ) {
        self.name = name
        self.configuration = configuration
        time = Timekeeper(clock)
        var logger = logger
        logger[metadataKey: "controller.name"] = "\(name)"
        self.logger = logger
        self.sources = sources
        self.listKeys = listKeys
        self.reconcile = reconcile
        let queue = WorkQueueStateMachine<Key>(concurrency: configuration.concurrency, backoff: configuration.backoff)
        state = Mutex(State(queue: queue))
    }

    /// Works until it is cancelled. Then no pass is started, running ones may go on for the drain limit and are cancelled
    /// after it; returns when all have ended. Call it once.
    package func run() async {
        await withDiscardingTaskGroup { group in
            group.addTask { await self.dispatch() }
            group.addTask { await self.keepResyncing() }
            for source in self.sources {
                group.addTask { await self.keepFollowing(source) }
            }
        }
    }

    /// Wakes `key`. Never blocks; may be called before `run()`.
    package func enqueue(_ key: Key) {
        state.withLock { $0.queue.add(key, now: time.elapsed()) }
        work.raise()
    }

    /// Wakes `key` after `delay`, if nothing wakes it sooner.
    package func enqueue(_ key: Key, after delay: Duration) {
        state.withLock { $0.queue.schedule(key, at: time.elapsed() + delay) }
        work.raise()
    }

    /// Lists and wakes all keys soon. Requests that come together are one.
    package func requestResync() {
        state.withLock { $0.isResyncUrgent = true }
        resyncWanted.raise()
    }

    /// The counters at this moment.
    package var snapshot: ControllerSnapshot {
        state.withLock { state in
            var snapshot = state.counters
            snapshot.ready = state.queue.readyCount
            snapshot.delayed = state.queue.delayedCount
            snapshot.running = state.queue.runningCount
            return snapshot
        }
    }

    // MARK: - Passes

    private func dispatch() async {
        // Unstructured, since it must outlast the cancellation that starts it; cancelled below, so it never outlives run().
        var drain: Task<Void, Never>?
        await withDiscardingTaskGroup { passes in
            while !Task.isCancelled {
                switch state.withLock({ $0.queue.next(now: time.elapsed()) }) {
                case .run(let key): passes.addTask { await self.runPass(key) }
                case .wait(let until): await work.wait(atMost: until.map { max(.zero, $0 - time.elapsed()) }, time)
                }
            }
            drain = Task { await self.endDrain() }
        }
        drain?.cancel()
    }

    /// Runs one pass out of reach of run()'s cancellation: a pass cut anywhere is legal but costs work.
    private func runPass(_ key: Key) async {
        // Unstructured for that reason; awaited here on every path, and cancelled by its own limit or by the end of the drain.
        // Made under the lock, which the pass needs to end: so its handle is stored before it is removed.
        let pass = state.withLock { state in
            let pass = Task { await self.attempt(key) }
            state.passes[key] = pass
            if state.isDrainOver { pass.cancel() }
            return pass
        }
        await pass.value
        work.raise()
    }

    private func endDrain() async {
        try? await time.sleep(configuration.drainLimit)
        let passes = state.withLock { state in
            state.isDrainOver = true
            return Array(state.passes.values)
        }
        for pass in passes { pass.cancel() }
    }

    private func attempt(_ key: Key) async {
        let result: WorkQueueStateMachine<Key>.Result
        do {
            let reconcile = reconcile
            switch try await limited({ try await reconcile(key) }) {
            case .settled: result = .settled
            case .recheck(let delay): result = .recheck(after: delay)
            }
        } catch {
            result = judge(error, key)
        }
        state.withLock { state in
            state.passes[key] = nil
            state.counters.count(result)
            state.queue.finish(key, result, now: time.elapsed(), random: Double.random(in: 0..<1))
        }
    }

    private func limited<Value: Sendable>(_ work: @escaping @Sendable () async throws -> Value) async throws -> Value {
        let (time, limit) = (time, configuration.passLimit)
        return try await withThrowingTaskGroup(of: Value.self) { group in
            group.addTask { try await work() }
            group.addTask {
                try await time.sleep(limit)
                throw PassTimeout(limit: limit)
            }
            defer { group.cancelAll() }
            guard let value = try await group.next() else { throw CancellationError() }
            return value
        }
    }

    private func judge(_ error: any Error, _ key: Key) -> WorkQueueStateMachine<Key>.Result {
        if Task.isCancelled { return .abandoned }
        let advice = (error as? any RetryAdvising)?.retry ?? .backoff
        if error is PassTimeout { state.withLock { $0.counters.timeouts += 1 } }
        logger.warning(
            "reconcile pass failed",
            metadata: ["reconcile.key": "\(key)", "reconcile.retry": "\(advice)", "error": "\(error)"]
        )
        return .failed(advice)
    }

    // MARK: - Sources and resync

    private func keepResyncing() async {
        var failures = 0
        while !Task.isCancelled {
            let isUrgent = state.withLock { state in
                defer { state.isResyncUrgent = false }
                return state.isResyncUrgent
            }
            failures = await resyncOnce(isUrgent: isUrgent) ? 0 : failures + 1
            if failures > 0 {
                if isUrgent { state.withLock { $0.isResyncUrgent = true } }
                // A source that is back says so by asking for a resync: then the rest of the pause is not waited for.
                let pause = configuration.backoff.delay(failures: failures, random: Double.random(in: 0..<1))
                await resyncWanted.wait(atMost: pause, time)
            } else {
                await resyncWanted.wait(atMost: configuration.resyncInterval, time)
            }
        }
    }

    /// An urgent resync also hurries keys that wait; a periodic one leaves them their time.
    private func resyncOnce(isUrgent: Bool) async -> Bool {
        do {
            let keys = try await limited(listKeys)
            let now = time.elapsed()
            state.withLock { state in
                state.counters.resyncs += 1
                for key in keys {
                    if isUrgent { state.queue.add(key, now: now) } else { state.queue.addUnlessWaiting(key, now: now) }
                }
            }
            work.raise()
            return true
        } catch {
            if !Task.isCancelled {
                state.withLock { $0.counters.resyncFailures += 1 }
                logger.warning("resync failed", metadata: ["error": "\(error)"])
            }
            return false
        }
    }

    private func keepFollowing(_ source: Source<Key>) async {
        var failures = 0
        while !Task.isCancelled {
            let start = time.elapsed()
            var trouble = "it ended"
            do {
                try await source.follow { self.take($0) }
            } catch {
                trouble = "\(error)"
            }
            if Task.isCancelled { return }
            failures = time.elapsed() - start > configuration.backoff.cap ? 1 : failures + 1
            logger.warning("source stopped", metadata: ["source.name": "\(source.name)", "error": "\(trouble)"])
            requestResync()
            try? await time.sleep(configuration.backoff.delay(failures: failures, random: Double.random(in: 0..<1)))
        }
    }

    private func take(_ signal: SourceSignal<Key>) {
        switch signal {
        case .key(let key): enqueue(key)
        case .resync: requestResync()
        }
    }
}

/// A pass took longer than its limit.
package struct PassTimeout: Error, Hashable, CustomStringConvertible {
    package let limit: Duration

    package var description: String { "the pass took longer than \(limit)" }
}

extension ControllerSnapshot {
    fileprivate mutating func count<Key>(_ result: WorkQueueStateMachine<Key>.Result) {
        switch result {
        case .settled: settled += 1
        case .recheck: rechecks += 1
        case .abandoned: abandoned += 1
        case .failed(let advice):
            failures += 1
            switch advice {
            case .backoff: break
            case .never: terminalFailures += 1
            }
        }
    }
}
