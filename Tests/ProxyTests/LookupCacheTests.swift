import Logging
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import Proxy

/// One question at a time, and never an answer older than a notification.
@Suite(.timeLimit(.minutes(5)))
struct LookupCacheTests {
    /// A database that answers when told.
    final class Oracle: Sendable {
        let asked = Mutex(0)
        let answer = Mutex(1)
        private let gate: AsyncStream<Void>
        private let opening: AsyncStream<Void>.Continuation

        init() { (gate, opening) = AsyncStream.makeStream() }

        func open() { opening.yield() }

        func ask() async -> Int? {
            let answer = answer.withLock { $0 }
            asked.withLock { $0 += 1 }
            var iterator = gate.makeAsyncIterator()
            _ = await iterator.next()
            return answer
        }
    }

    private static func with(
        lifetime: TimeAmount = .seconds(60),
        _ body: @Sendable (LookupCache<Int, Int>, Oracle) async throws -> Void
    ) async throws {
        let oracle = Oracle()
        let cache = LookupCache<Int, Int>(
            entriesLimit: 100,
            log: Logger(label: "test"),
            lifetime: { _ in lifetime },
            load: { _ in await oracle.ask() }
        )
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await cache.run() }
            try await body(cache, oracle)
            group.cancelAll()
        }
    }

    private static var loop: any EventLoop { MultiThreadedEventLoopGroup.singleton.any() }

    @Test func manyWhoAskAtOnceAreOneQuestion() async throws {
        try await Self.with { cache, oracle in
            let answers = (0..<100).map { _ in cache.value(for: 1, on: Self.loop) }
            oracle.open()
            for answer in answers {
                let value = try await answer.get()
                #expect(value == 1)
            }
            #expect(oracle.asked.withLock { $0 } == 1)
            #expect(cache.cached(1, now: .now()) == .some(1))
        }
    }

    @Test func anAnswerThatWasOvertakenIsAskedAgain() async throws {
        try await Self.with { cache, oracle in
            let answer = cache.value(for: 1, on: Self.loop)
            try await eventually { oracle.asked.withLock { $0 } == 1 }
            oracle.answer.withLock { $0 = 2 }
            cache.forget(1)
            oracle.open()
            try await eventually { oracle.asked.withLock { $0 } == 2 }
            oracle.open()
            let value = try await answer.get()
            #expect(value == 2)
        }
    }

    @Test func anAnswerIsForgottenAtTheEndOfItsLife() async throws {
        try await Self.with(lifetime: .milliseconds(50)) { cache, oracle in
            oracle.open()
            let value = try await cache.value(for: 1, on: Self.loop).get()
            #expect(value == 1)
            #expect(cache.cached(1, now: .now() + .seconds(1)) == nil)
        }
    }

    @Test func whatWasSaidLastServesWhileTheDatabaseIsAway() async throws {
        struct Away: Error {}
        let isAway = Mutex(false)
        let cache = LookupCache<Int, Int>(
            entriesLimit: 100,
            outageLifetime: .seconds(60),
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            lifetime: { _ in .milliseconds(1) },
            load: { key in
                if isAway.withLock({ $0 }) { throw Away() }
                return key * 10
            }
        )
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await cache.run() }
            for key in [1, 2] {
                let value = try await cache.value(for: key, on: Self.loop).get()
                #expect(value == key * 10)
            }
            isAway.withLock { $0 = true }
            cache.suspectAll()
            #expect(cache.cached(1, now: .now()) == nil, "first the database is asked")
            let asked = NIODeadline.now()
            let again = try await cache.value(for: 1, on: Self.loop).get()
            #expect(again == 10)
            #expect(cache.cached(1, now: asked) == .some(10), "and then nobody waits for it")
            cache.forget(2)
            await #expect(throws: ProxyRefusal.self, "what is known to have changed does not serve on") {
                _ = try await cache.value(for: 2, on: Self.loop).get()
            }
            await #expect(throws: ProxyRefusal.self, "nor what was never known") {
                _ = try await cache.value(for: 3, on: Self.loop).get()
            }
            group.cancelAll()
        }
    }

    @Test func questionsWaitInLineBeyondTheLimit() async throws {
        let running = Mutex(0)
        let most = Mutex(0)
        let cache = LookupCache<Int, Int>(
            entriesLimit: 100,
            loadsLimit: 3,
            log: Logger(label: "test"),
            lifetime: { _ in .seconds(60) },
            load: { key in
                let now = running.withLock { count in
                    count += 1
                    return count
                }
                most.withLock { $0 = max($0, now) }
                try await Task.sleep(for: .milliseconds(5))
                running.withLock { $0 -= 1 }
                return key
            }
        )
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await cache.run() }
            let answers = (0..<30).map { cache.value(for: $0, on: Self.loop) }
            for (number, answer) in answers.enumerated() {
                let value = try await answer.get()
                #expect(value == number)
            }
            group.cancelAll()
        }
        #expect(most.withLock { $0 } == 3)
    }

    @Test func theCacheIsBoundedAndKeepsWhatIsUsed() {
        var cache = BoundedCache<Int, Int>(limit: 100)
        cache.insert(-1, for: -1)
        for number in 0..<10_000 {
            cache.insert(number, for: number)
            #expect(cache.value(for: -1) == -1)
            #expect(cache.count <= 101)
        }
        cache.removeAll { key, _ in key == -1 }
        #expect(cache.value(for: -1) == nil)
        #expect(cache.value(for: 9_999) == 9_999)
    }
}
