import Logging
import Reconciling
import Synchronization
import Testing

/// Runs a controller while `body` runs; ends it afterwards.
private func running<Key>(_ controller: Controller<Key>, _ body: () async -> Void) async {
    await withTaskGroup(of: Void.self) { group in
        group.addTask { await controller.run() }
        await body()
        group.cancelAll()
    }
}

private let quiet: Logger = {
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    return logger
}()

/// Remembers which keys ran, in order.
private final class Journal: Sendable {
    private let keys = Mutex<[String]>([])
    func note(_ key: String) { keys.withLock { $0.append(key) } }
    var all: [String] { keys.withLock { $0 } }
}

private struct Hopeless: RetryAdvising {
    var retry: RetryAdvice { .never }
}

private struct Passing: Error {}

@Suite(.timeLimit(.minutes(5))) struct ControllerTests {
    private let clock = ManualClock()
    private let journal = Journal()

    private func controller(
        _ configuration: ControllerConfiguration = ControllerConfiguration(),
        sources: [Source<String>] = [],
        keys: @escaping @Sendable () async throws -> [String] = { [] },
        _ reconcile: @escaping @Sendable (String) async throws -> Outcome
    ) -> Controller<String> {
        Controller(
            name: "test",
            configuration: configuration,
            clock: clock,
            logger: quiet,
            sources: sources,
            listKeys: keys,
            reconcile: { [journal] key in
                journal.note(key)
                return try await reconcile(key)
            }
        )
    }

    @Test func looksAtEverythingAtTheStartAndPeriodically() async {
        let controller = controller(keys: { ["a", "b"] }) { _ in .settled }
        await running(controller) {
            #expect(await eventually { journal.all.sorted() == ["a", "b"] })
            #expect(await eventually { controller.snapshot.settled == 2 && clock.sleeperCount == 1 })
            clock.advance(by: .seconds(30))
            #expect(await eventually { journal.all.count == 4 })
        }
    }

    @Test func enqueueWakesAnIdleController() async {
        let controller = controller { _ in .settled }
        await running(controller) {
            #expect(await eventually { controller.snapshot.resyncs == 1 })
            controller.enqueue("x")
            #expect(await eventually { journal.all == ["x"] })
        }
    }

    @Test func rechecksWhenAsked() async {
        let controller = controller { _ in .recheck(after: .seconds(5)) }
        await running(controller) {
            controller.enqueue("x")
            #expect(await eventually { controller.snapshot.rechecks == 1 && clock.sleeperCount == 2 })
            clock.advance(by: .seconds(4))
            try? await Task.sleep(for: .milliseconds(20))
            #expect(journal.all.count == 1)
            clock.advance(by: .seconds(1))
            #expect(await eventually { journal.all.count == 2 })
        }
    }

    @Test func failuresAreTriedAgainAndHopelessOnesAreNot() async {
        let failures = Mutex(["flaky": 2])
        let controller = controller { key in
            if key == "hopeless" { throw Hopeless() }
            let mustFail = failures.withLock { counts -> Bool in
                counts[key, default: 0] -= 1
                return counts[key, default: 0] >= 0
            }
            if mustFail { throw Passing() }
            return .settled
        }
        await running(controller) {
            controller.enqueue("hopeless")
            controller.enqueue("flaky")
            #expect(
                await eventually {
                    clock.advance(by: .milliseconds(50))
                    return controller.snapshot.settled == 1
                }
            )
            #expect(journal.all.filter { $0 == "flaky" }.count == 3)
            #expect(controller.snapshot.failures == 3)
            #expect(controller.snapshot.terminalFailures == 1)
        }
    }

    @Test func aPassThatTakesTooLongIsCancelledAndTriedAgain() async {
        let controller = controller(ControllerConfiguration(passLimit: .seconds(7))) { [journal] _ in
            if journal.all.count == 1 { try await Task.sleep(for: .seconds(600)) }
            return .settled
        }
        await running(controller) {
            controller.enqueue("slow")
            #expect(await eventually { controller.snapshot.running == 1 && clock.sleeperCount >= 2 })
            clock.advance(by: .seconds(7))
            #expect(await eventually { controller.snapshot.timeouts == 1 })
            #expect(
                await eventually {
                    clock.advance(by: .milliseconds(50))
                    return controller.snapshot.settled == 1
                }
            )
        }
    }

    @Test func runningPassesMayFinishAfterTheEnd() async {
        let gate = Mutex(false)
        let controller = controller { _ in
            while !gate.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(1)) }
            return .settled
        }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await controller.run() }
            controller.enqueue("x")
            #expect(await eventually { controller.snapshot.running == 1 })
            group.cancelAll()
            controller.enqueue("y")
            try? await Task.sleep(for: .milliseconds(20))
            #expect(controller.snapshot.running == 1)
            gate.withLock { $0 = true }
            await group.waitForAll()
        }
        #expect(controller.snapshot.settled == 1)
        #expect(journal.all == ["x"])
    }

    @Test func theDrainIsBounded() async {
        let controller = controller(ControllerConfiguration(drainLimit: .seconds(3))) { _ in
            try await Task.sleep(for: .seconds(600))
            return .settled
        }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await controller.run() }
            controller.enqueue("x")
            #expect(await eventually { controller.snapshot.running == 1 })
            group.cancelAll()
            // What sleeps after the cancellation is the pass's own limit and the drain's.
            #expect(await eventually { clock.sleeperCount == 2 })
            clock.advance(by: .seconds(3))
            await group.waitForAll()
        }
        #expect(controller.snapshot.abandoned == 1)
        #expect(controller.snapshot.failures == 0)
    }

    @Test func sourcesWakeKeysAndAreRestarted() async {
        let starts = Mutex(0)
        let source = Source<String>("flaky source") { signal in
            let start = starts.withLock { count in
                count += 1
                return count
            }
            signal(.key("key-\(start)"))
            if start == 1 { throw Passing() }
            if start == 2 { return }
            while true { try await Task.sleep(for: .seconds(600)) }
        }
        let controller = controller(sources: [source]) { _ in .settled }
        await running(controller) {
            #expect(
                await eventually {
                    clock.advance(by: .milliseconds(50))
                    return Set(journal.all) == ["key-1", "key-2", "key-3"]
                }
            )
            // One at the start, and one for each time the source may have missed something.
            #expect(await eventually { controller.snapshot.resyncs >= 2 })
        }
    }

    @Test func aSequenceIsASource() async {
        let (stream, signals) = AsyncStream.makeStream(
            of: SourceSignal<String>.self,
            bufferingPolicy: .bufferingNewest(8)
        )
        let controller = controller(sources: [Source("stream") { stream }], keys: { ["listed"] }) { _ in .settled }
        await running(controller) {
            #expect(await eventually { journal.all == ["listed"] })
            signals.yield(.key("named"))
            #expect(await eventually { journal.all == ["listed", "named"] })
            signals.yield(.resync)
            #expect(await eventually { journal.all == ["listed", "named", "listed"] })
        }
    }

    @Test func aFailedListingIsTriedAgain() async {
        let attempts = Mutex(0)
        let controller = controller(keys: {
            let attempt = attempts.withLock { count in
                count += 1
                return count
            }
            if attempt < 3 { throw Passing() }
            return ["a"]
        }) { _ in .settled }
        await running(controller) {
            #expect(
                await eventually {
                    clock.advance(by: .milliseconds(50))
                    return journal.all == ["a"]
                }
            )
            #expect(controller.snapshot.resyncFailures == 2)
        }
    }

    @Test func neverRunsAKeyTwiceAtOnce() async {
        let inside = Mutex<Set<String>>([])
        let overlaps = Mutex(0)
        let configuration = ControllerConfiguration(concurrency: 4)
        let controller = Controller<String>(name: "busy", configuration: configuration, logger: quiet, listKeys: { [] })
        { key in
            if !inside.withLock({ $0.insert(key).inserted }) { overlaps.withLock { $0 += 1 } }
            await Task.yield()
            inside.withLock { _ = $0.remove(key) }
            return .settled
        }
        await running(controller) {
            for index in 0..<20_000 {
                controller.enqueue("k\(index % 7)")
                if index % 100 == 0 { await Task.yield() }
            }
            #expect(await eventually { controller.snapshot.ready == 0 && controller.snapshot.running == 0 })
        }
        #expect(overlaps.withLock { $0 } == 0)
        #expect(controller.snapshot.settled >= 7)
    }
}
