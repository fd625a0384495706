import Logging
import NIOCore
import Synchronization

/// Answers from the database, kept for a while; one question at a time for each key.
///
/// Whatever is forgotten while its answer is on the way is asked again, so an answer older than a notification is
/// never kept or given out.
final class LookupCache<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    private struct Entry {
        var value: Value?
        var expires: NIODeadline
    }

    private struct Question {
        var waiters: [EventLoopPromise<Value?>] = []
        /// Forgotten since it was asked: the answer must not be used.
        var isStale = false
    }

    private struct State {
        var entries: BoundedCache<Key, Entry>
        var questions: [Key: Question] = [:]
    }

    /// A question is asked anew this often where changes keep overtaking it.
    private static var attemptsLimit: Int { 4 }
    private static var questionsLimit: Int { 16_384 }

    private let state: Mutex<State>
    private let load: @Sendable (Key) async throws -> Value?
    private let lifetime: @Sendable (Value?) -> TimeAmount
    private let questions: AsyncStream<Key>
    private let asking: AsyncStream<Key>.Continuation
    private let log: Logger

    /// - Parameters:
    ///   - lifetime: how long an answer (nil: there is none) may be used; zero means only by those who waited for it.
    ///   - load: asks the database.
    init(
        entriesLimit: Int,
        log: Logger,
        lifetime: @escaping @Sendable (Value?) -> TimeAmount,
        load: @escaping @Sendable (Key) async throws -> Value?
    ) {
        state = Mutex(State(entries: BoundedCache(limit: entriesLimit)))
        (questions, asking) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(Self.questionsLimit))
        self.lifetime = lifetime
        self.load = load
        self.log = log
    }

    /// A kept answer. The outer nil: none is kept; the inner: it is known that there is no such thing.
    func cached(_ key: Key, now: NIODeadline) -> Value?? {
        state.withLock { state in
            guard let entry = state.entries.value(for: key), entry.expires > now else { return Value??.none }
            return .some(entry.value)
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

    /// Asks the database until cancelled.
    func run() async {
        await withDiscardingTaskGroup { group in
            for await key in questions {
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
            settle(key, .failure(ProxyRefusal.unavailable("the database cannot be asked at the moment; try again")))
        }
    }

    /// False where the answer was forgotten before it came.
    private func keep(_ value: Value?, for key: Key) -> Bool {
        let expires = NIODeadline.now() + lifetime(value)
        return state.withLock { state in
            guard state.questions[key]?.isStale == false else { return false }
            state.entries.insert(Entry(value: value, expires: expires), for: key)
            return true
        }
    }

    private func settle(_ key: Key, _ result: Result<Value?, any Error>) {
        let question = state.withLock { $0.questions.removeValue(forKey: key) }
        for waiter in question?.waiters ?? [] { waiter.completeWith(result) }
    }
}
