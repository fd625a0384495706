import Logging
import NIOCore
import Synchronization

/// Answers from the database, kept for a while; one question at a time for each key.
///
/// Whatever is forgotten while its answer is on the way is asked again, so an answer older than a notification is
/// never kept or given out.
///
/// While the database does not answer, what it said last serves on for `outageLifetime`, so that its restart does not stop
/// traffic. What was known to have changed is not served: it was forgotten.
final class LookupCache<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    private struct Entry {
        var value: Value?
        var expires: NIODeadline
        /// Until when it may be used while the database does not answer.
        var outlives: NIODeadline
        var generation: Int
    }

    private struct Question {
        var waiters: [EventLoopPromise<Value?>] = []
        /// Forgotten since it was asked: the answer must not be used.
        var isStale = false
    }

    private struct State {
        var entries: BoundedCache<Key, Entry>
        var questions: [Key: Question] = [:]
        /// Entries of earlier generations are suspect: to be asked for again.
        var generation = 0
        /// The database failed a moment ago: what is kept is used without asking it until then.
        var isDownUntil = NIODeadline.distantPast

        mutating func entry(_ key: Key, at now: NIODeadline) -> Entry? {
            guard let entry = entries.value(for: key) else { return nil }
            if entry.generation == generation, entry.expires > now { return entry }
            return isDownUntil > now && entry.outlives > now ? entry : nil
        }
    }

    /// A question is asked anew this often where changes keep overtaking it.
    private static var attemptsLimit: Int { 4 }
    private static var questionsLimit: Int { 16_384 }
    /// So long nobody waits for a database that has just failed.
    private static var outagePause: TimeAmount { .seconds(1) }

    private let state: Mutex<State>
    private let loadsLimit: Int
    private let load: @Sendable (Key) async throws -> Value?
    private let lifetime: @Sendable (Value?) -> TimeAmount
    private let outageLifetime: TimeAmount
    private let questions: AsyncStream<Key>
    private let asking: AsyncStream<Key>.Continuation
    private let log: Logger

    /// - Parameters:
    ///   - loadsLimit: so many questions are asked at a time; the others wait in line.
    ///   - lifetime: how long an answer (nil: there is none) may be used; zero means only by those who waited for it.
    ///   - load: asks the database.
    init(
        entriesLimit: Int,
        loadsLimit: Int = .max,
        outageLifetime: TimeAmount = .zero,
        log: Logger,
        lifetime: @escaping @Sendable (Value?) -> TimeAmount,
        load: @escaping @Sendable (Key) async throws -> Value?
    ) {
        state = Mutex(State(entries: BoundedCache(limit: entriesLimit)))
        (questions, asking) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(Self.questionsLimit))
        self.loadsLimit = loadsLimit
        self.outageLifetime = outageLifetime
        self.lifetime = lifetime
        self.load = load
        self.log = log
    }

    /// A kept answer. The outer nil: none is kept; the inner: it is known that there is no such thing.
    func cached(_ key: Key, now: NIODeadline) -> Value?? {
        state.withLock { state in
            state.entry(key, at: now).map { .some($0.value) } ?? Value??.none
        }
    }

    /// Asks, or joins those who wait for the same answer. Needs ``run()`` to be running.
    func value(for key: Key, on loop: any EventLoop) -> EventLoopFuture<Value?> {
        let promise = loop.makePromise(of: Value?.self)
        let isFirst = state.withLock { state in
            state.questions[key, default: Question()].waiters.append(promise)
            return state.questions[key]?.waiters.count == 1
        }
        if isFirst, case .enqueued = asking.yield(key) { return promise.futureResult }
        if isFirst { settle(key, .failure(ProxyRefusal.unavailable("too many lookups are waiting; try again"))) }
        return promise.futureResult
    }

    func forget(_ key: Key) {
        state.withLock { state in
            state.entries.remove(key)
            state.questions[key]?.isStale = true
        }
    }

    /// Forgets kept answers that match; all that are on the way are asked again, for they are not known yet.
    func forget(where isDoomed: @Sendable (Key, Value?) -> Bool) {
        state.withLock { state in
            state.entries.removeAll { isDoomed($0, $1.value) }
            for key in state.questions.keys { state.questions[key]?.isStale = true }
        }
    }

    /// Messages may have been lost: nothing that is kept is used before the database was asked again.
    func suspectAll() {
        state.withLock { state in
            state.generation += 1
            state.isDownUntil = .distantPast
            for key in state.questions.keys { state.questions[key]?.isStale = true }
        }
    }

    /// Asks the database until cancelled.
    func run() async {
        await withTaskGroup(of: Void.self) { group in
            var free = loadsLimit
            for await key in questions {
                if free == 0 {
                    await group.next()
                    free += 1
                }
                free -= 1
                group.addTask { await self.answer(key) }
            }
        }
    }

    private func answer(_ key: Key) async {
        do {
            for _ in 1..<Self.attemptsLimit {
                state.withLock { $0.questions[key]?.isStale = false }
                let value = try await load(key)
                if keep(value, for: key) { return settle(key, .success(value)) }
            }
            settle(key, .failure(ProxyRefusal.unavailable("the sandbox's route keeps changing; try again")))
        } catch is CancellationError {
            settle(key, .failure(ProxyRefusal.unavailable("the proxy is shutting down; try again")))
        } catch {
            log.error("lookup failed", metadata: ["error": "\(error)"])
            settle(key, lastKnown(key))
        }
    }

    /// False where the answer was forgotten before it came.
    private func keep(_ value: Value?, for key: Key) -> Bool {
        let (now, lifetime) = (NIODeadline.now(), lifetime(value))
        let outlives = now + (value == nil || lifetime == .zero ? .zero : outageLifetime)
        return state.withLock { state in
            state.isDownUntil = .distantPast
            guard state.questions[key]?.isStale == false else { return false }
            let entry = Entry(
                value: value,
                expires: now + lifetime,
                outlives: outlives,
                generation: state.generation
            )
            state.entries.insert(entry, for: key)
            return true
        }
    }

    /// What serves in place of an answer that the database does not give.
    private func lastKnown(_ key: Key) -> Result<Value?, any Error> {
        let now = NIODeadline.now()
        let entry = state.withLock { state in
            state.isDownUntil = now + Self.outagePause
            return state.entry(key, at: now)
        }
        guard let entry else {
            return .failure(ProxyRefusal.unavailable("the database cannot be asked at the moment; try again"))
        }
        return .success(entry.value)
    }

    private func settle(_ key: Key, _ result: Result<Value?, any Error>) {
        let question = state.withLock { $0.questions.removeValue(forKey: key) }
        for waiter in question?.waiters ?? [] { waiter.completeWith(result) }
    }
}
