package import Domain
package import Logging
package import Postgres
import ServiceLifecycle
import Synchronization

/// What the database says has changed, for everybody in this process who waits for it. One connection, two channels:
/// `status` (a sandbox's id) wakes who waits for that sandbox; `route` is handed to `onRouteChange`.
///
/// A notification only wakes: whoever is woken reads the rows. Who waits should also look by himself now and then, so that
/// a lost notification costs time and nothing else.
package final class ChangeFeed: Service {
    private struct State {
        var subscriptions: [SandboxID: [ObjectIdentifier: ChangeSubscription]] = [:]
        var count = 0
    }

    /// How many requests may wait at a time; beyond it, `subscribe` answers nil.
    package static var subscriptionLimit: Int { 4096 }

    private let listener: PostgresListener
    private let state = Mutex(State())
    private let onRouteChange: @Sendable (RouteChange) -> Void

    /// Connects to nothing before `run()`. `onRouteChange` must not block; it gets `.resync` each time listening begins.
    package init(
        _ configuration: PostgresConfiguration,
        logger: Logger,
        onRouteChange: @escaping @Sendable (RouteChange) -> Void = { _ in }
    ) {
        listener = PostgresListener(configuration, channels: ["status", "route"], logger: logger)
        self.onRouteChange = onRouteChange
    }

    /// Whether notifications arrive at present. While they do not, nothing cached may be trusted.
    package var isListening: Bool { listener.isListening }

    /// Listens until cancelled or shut down.
    package func run() async {
        await cancelWhenGracefulShutdown { [self] in
            await withTaskGroup(of: Void.self) { group in
                group.addTask { await self.listener.run() }
                group.addTask { await self.dispatch() }
            }
        }
    }

    /// Begins to follow a sandbox: changes from now on wake the subscription. Subscribe first, then read the row.
    package func subscribe(to sandbox: SandboxID) -> ChangeSubscription? {
        let subscription = ChangeSubscription()
        let isTaken = state.withLock { state in
            guard state.count < Self.subscriptionLimit else { return false }
            state.count += 1
            state.subscriptions[sandbox, default: [:]][ObjectIdentifier(subscription)] = subscription
            return true
        }
        return isTaken ? subscription : nil
    }

    /// Ends a subscription. Idempotent.
    package func unsubscribe(_ subscription: ChangeSubscription, from sandbox: SandboxID) {
        state.withLock { state in
            guard state.subscriptions[sandbox]?.removeValue(forKey: ObjectIdentifier(subscription)) != nil else {
                return
            }
            state.count -= 1
            if state.subscriptions[sandbox]?.isEmpty == true { state.subscriptions[sandbox] = nil }
        }
    }

    private func dispatch() async {
        for await event in listener.events {
            switch event {
            case .resync:
                for subscription in allSubscriptions() { subscription.wake() }
                onRouteChange(.resync)
            case .notification(channel: "status", let payload):
                guard let id = SandboxID(payload) else { continue }
                for subscription in subscriptions(to: id) { subscription.wake() }
            case .notification(_, let payload):
                onRouteChange(RouteChange(payload: payload))
            }
        }
    }

    private func subscriptions(to id: SandboxID) -> [ChangeSubscription] {
        state.withLock { Array($0.subscriptions[id, default: [:]].values) }
    }

    private func allSubscriptions() -> [ChangeSubscription] {
        state.withLock { $0.subscriptions.values.flatMap(\.values) }
    }
}
