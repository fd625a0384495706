import Synchronization

/// Between a listener's connection and its consumer. Bounded: when it is full, all of it gives way to one `.resync`, which
/// says as much.
final class ListenerInbox: Sendable {
    private struct State {
        var events: [PostgresListenerEvent] = []
        var hasEnded = false
        var consumer: CheckedContinuation<PostgresListenerEvent?, Never>?
        var lastHeard: ContinuousClock.Instant = .now
        var ping: (payload: String, answer: Latch)?
    }

    private let state = Mutex(State())
    private let limit: Int
    /// The channel on which a listener hears itself.
    let pingChannel = "listener_ping_" + String(UInt64.random(in: 0 ... .max), radix: 16)

    init(limit: Int) { self.limit = max(1, limit) }

    // MARK: From the connection

    /// Called on the connection's thread.
    func receive(_ notification: Notification) {
        if notification.channel == pingChannel {
            let answer = state.withLock { state in
                state.lastHeard = .now
                return state.ping?.payload == notification.payload ? state.ping?.answer : nil
            }
            answer?.open()
        } else {
            deliver(.notification(channel: notification.channel, payload: notification.payload))
        }
    }

    /// Everything before it is moot.
    func resync() { deliver(.resync) }

    func end() {
        let consumer = state.withLock { state in
            state.hasEnded = true
            defer { state.consumer = nil }
            return state.consumer
        }
        consumer?.resume(returning: nil)
    }

    private func deliver(_ event: PostgresListenerEvent) {
        let consumer = state.withLock { state -> CheckedContinuation<PostgresListenerEvent?, Never>? in
            state.lastHeard = .now
            if let consumer = state.consumer {
                state.consumer = nil
                return consumer
            }
            if event == .resync || state.events.count >= limit {
                state.events = [.resync]
            } else {
                state.events.append(event)
            }
            return nil
        }
        consumer?.resume(returning: event)
    }

    // MARK: To the consumer

    /// What waits for the consumer.
    var backlog: [PostgresListenerEvent] { state.withLock { $0.events } }

    func next() async -> PostgresListenerEvent? {
        await withTaskCancellationHandler {
            await withCheckedContinuation { enqueue($0) }
        } onCancel: {
            let consumer = state.withLock { state in
                defer { state.consumer = nil }
                return state.consumer
            }
            consumer?.resume(returning: nil)
        }
    }

    private func enqueue(_ consumer: CheckedContinuation<PostgresListenerEvent?, Never>) {
        enum Answer { case wait, now(PostgresListenerEvent?) }
        let answer = state.withLock { state -> Answer in
            if !state.events.isEmpty { return .now(state.events.removeFirst()) }
            if state.hasEnded || Task.isCancelled { return .now(nil) }
            precondition(state.consumer == nil, "a listener's events are for one consumer")
            state.consumer = consumer
            return .wait
        }
        if case .now(let event) = answer { consumer.resume(returning: event) }
    }

    // MARK: Pinging

    func silence(at now: ContinuousClock.Instant) -> Duration { state.withLock { now - $0.lastHeard } }

    /// What to send on `pingChannel`, and what opens when it comes back.
    func expectPing() -> (payload: String, answer: Latch) {
        let ping = (payload: String(UInt64.random(in: 0 ... .max), radix: 16), answer: Latch())
        state.withLock { $0.ping = ping }
        return ping
    }
}
