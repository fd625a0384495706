import FoundationEssentials
import Testing

@testable import Reconciling

@Suite struct WorkQueueTests {
    typealias Queue = WorkQueueStateMachine<Int>

    private func queue(_ concurrency: Int = 1) -> Queue {
        Queue(concurrency: concurrency, backoff: Backoff(first: .seconds(1), cap: .seconds(60), wakeFloor: .seconds(4)))
    }

    @Test func runsInOrderAndOnlyOnceWhenAddedTwice() {
        var queue = queue(3)
        for key in [1, 2, 1, 2, 1] { queue.add(key, now: .zero) }
        #expect(queue.next(now: .zero) == .run(1))
        #expect(queue.next(now: .zero) == .run(2))
        #expect(queue.next(now: .zero) == .wait(until: nil))
    }

    @Test func aKeyAddedWhileRunningRunsAgainBehindTheOthers() {
        var queue = queue(2)
        queue.add(1, now: .zero)
        #expect(queue.next(now: .zero) == .run(1))
        queue.add(1, now: .zero)
        #expect(queue.next(now: .zero) == .wait(until: nil))
        queue.add(2, now: .zero)
        queue.finish(1, .settled, now: .zero, random: 0)
        #expect(queue.next(now: .zero) == .run(2))
        #expect(queue.next(now: .zero) == .run(1))
        queue.finish(1, .settled, now: .zero, random: 0)
        #expect(queue.next(now: .zero) == .wait(until: nil))
    }

    @Test func neverRunsMoreThanItsConcurrency() {
        var queue = queue(2)
        for key in 1...3 { queue.add(key, now: .zero) }
        #expect(queue.next(now: .zero) == .run(1))
        #expect(queue.next(now: .zero) == .run(2))
        #expect(queue.next(now: .zero) == .wait(until: nil))
        queue.finish(2, .settled, now: .zero, random: 0)
        #expect(queue.next(now: .zero) == .run(3))
    }

    @Test func failuresBackOffDoublingToTheCap() {
        var queue = queue()
        var (now, delays) = (Duration.zero, [Duration]())
        queue.add(1, now: now)
        for _ in 0..<9 {
            #expect(queue.next(now: now) == .run(1))
            queue.finish(1, .failed(.backoff), now: now, random: 1)
            guard case .wait(let until?) = queue.next(now: now) else { return #expect(Bool(false), "no retry planned") }
            delays.append(until - now)
            now = until
        }
        #expect(delays == [1, 2, 4, 8, 16, 32, 60, 60, 60].map { .seconds($0) })
    }

    @Test func jitterStaysInTheUpperHalf() {
        let backoff = Backoff(first: .seconds(8), cap: .seconds(60))
        #expect(backoff.delay(failures: 1, random: 0) == .seconds(4))
        #expect(backoff.delay(failures: 1, random: 0.5) == .seconds(6))
        #expect(backoff.delay(failures: 1000, random: 0.999_999) <= .seconds(60))
    }

    @Test func successForgetsFailures() {
        var queue = queue()
        queue.add(1, now: .zero)
        _ = queue.next(now: .zero)
        queue.finish(1, .failed(.backoff), now: .zero, random: 1)
        #expect(queue.next(now: .seconds(1)) == .run(1))
        queue.finish(1, .settled, now: .seconds(1), random: 1)
        queue.add(1, now: .seconds(1))
        #expect(queue.next(now: .seconds(1)) == .run(1))
    }

    /// A pass that wakes itself before it fails must not spin; one that is woken later need not wait for all of its backoff.
    @Test(arguments: [RetryAdvice.backoff, .never]) func aWakeCutsBackoffButNotBelowItsFloor(_ advice: RetryAdvice) {
        var queue = queue()
        var now = Duration.zero
        queue.add(1, now: now)
        for _ in 0..<6 {
            guard queue.next(now: now) == .run(1) else { return #expect(Bool(false)) }
            queue.finish(1, .failed(.backoff), now: now, random: 1)
            if case .wait(let until?) = queue.next(now: now) { now = until }
        }
        #expect(queue.next(now: now) == .run(1))
        queue.add(1, now: now)
        queue.finish(1, .failed(advice), now: now, random: 1)
        #expect(queue.next(now: now) == .wait(until: now + .seconds(4)))
        queue.add(1, now: now + .seconds(1))
        #expect(queue.next(now: now + .seconds(1)) == .wait(until: now + .seconds(4)))
        #expect(queue.next(now: now + .seconds(4)) == .run(1))
    }

    @Test func aTerminalFailureWaitsForAWake() {
        var queue = queue()
        queue.add(1, now: .zero)
        _ = queue.next(now: .zero)
        queue.finish(1, .failed(.never), now: .zero, random: 1)
        #expect(queue.next(now: .seconds(10_000)) == .wait(until: nil))
        queue.add(1, now: .seconds(10_000))
        #expect(queue.next(now: .seconds(10_000)) == .run(1))
    }

    @Test func recheckComesInTimeAndAWakeComesFirst() {
        var queue = queue()
        queue.add(1, now: .zero)
        _ = queue.next(now: .zero)
        queue.finish(1, .recheck(after: .seconds(50)), now: .zero, random: 1)
        #expect(queue.next(now: .seconds(49)) == .wait(until: .seconds(50)))
        queue.add(1, now: .seconds(49))
        #expect(queue.next(now: .seconds(49)) == .run(1))
        queue.finish(1, .settled, now: .seconds(49), random: 1)
        #expect(queue.next(now: .seconds(60)) == .wait(until: nil))
    }

    @Test func theEarliestOfSeveralTimesCounts() {
        var queue = queue()
        queue.schedule(1, at: .seconds(9))
        queue.schedule(1, at: .seconds(5))
        queue.schedule(1, at: .seconds(7))
        #expect(queue.delayedCount == 1)
        #expect(queue.next(now: .seconds(4)) == .wait(until: .seconds(5)))
        #expect(queue.next(now: .seconds(5)) == .run(1))
        queue.finish(1, .settled, now: .seconds(5), random: 1)
        #expect(queue.next(now: .seconds(20)) == .wait(until: nil))
    }

    @Test func aRoutineLookDoesNotHurryWhoWaits() {
        var queue = queue()
        queue.schedule(1, at: .seconds(5))
        queue.addUnlessWaiting(1, now: .zero)
        queue.addUnlessWaiting(2, now: .zero)
        #expect(queue.next(now: .zero) == .run(2))
        queue.finish(2, .settled, now: .zero, random: 0)
        #expect(queue.next(now: .zero) == .wait(until: .seconds(5)))
    }

    /// Random use against the promises: no key twice at once, bounded concurrency, no key forgotten, nobody starved.
    @Test func keepsItsPromisesUnderRandomUse() {
        let seed =
            ProcessInfo.processInfo.environment["SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0...UInt64.max)
        var random = SplitMix(state: seed)
        var queue = queue(3)
        var (now, running, wanted) = (Duration.zero, Set<Int>(), [Int: Int]())
        for step in 0..<20_000 {
            let key = Int.random(in: 0..<12, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0, 1:
                queue.add(key, now: now)
                wanted[key] = wanted[key] ?? step
            case 2: queue.schedule(key, at: now + .seconds(Int.random(in: 0..<20, using: &random)))
            case 3, 4:
                guard case .run(let next) = queue.next(now: now) else { break }
                #expect(running.insert(next).inserted, "key \(next) twice at once, SEED=\(seed)")
                #expect(running.count <= 3, "SEED=\(seed)")
                wanted[next] = nil
            default:
                if let done = running.sorted().randomElement(using: &random) {
                    let results: [Queue.Result] = [
                        .settled, .recheck(after: .seconds(3)), .failed(.backoff), .failed(.never),
                    ]
                    running.remove(done)
                    queue.finish(done, results.randomElement(using: &random) ?? .settled, now: now, random: 0.5)
                }
                now += .milliseconds(Int.random(in: 0..<3000, using: &random))
            }
        }
        // Let time pass and everything settle: each key that was added has run since.
        for _ in 0..<200 {
            for key in running { queue.finish(key, .settled, now: now, random: 0) }
            running = []
            now += .seconds(60)
            while case .run(let key) = queue.next(now: now) {
                running.insert(key)
                wanted[key] = nil
            }
        }
        #expect(wanted.isEmpty, "forgotten: \(wanted), SEED=\(seed)")
        #expect(queue.readyCount == 0 && queue.delayedCount == 0 && queue.runningCount == 0, "SEED=\(seed)")
    }
}

/// A small seeded generator.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }
}
