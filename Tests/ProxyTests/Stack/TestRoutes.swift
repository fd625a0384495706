import Domain
import Store
import Synchronization

/// Rows for tests of the proxy alone; the real view is tested in RouteQueriesTests.
final class TestRoutes: RouteSource {
    struct State {
        var routes: [SandboxID: Route] = [:]
        var grants: [[UInt8]: KeyGrant] = [:]
        var routeLookups = 0
        var grantLookups = 0
        var reported: [[SandboxID]] = []
    }

    let state = Mutex(State())
    private let changes: AsyncStream<RouteChange>
    private let changing: AsyncStream<RouteChange>.Continuation

    init() {
        (changes, changing) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1024))
    }

    func route(of sandbox: SandboxID) async throws -> Route? {
        state.withLock { state in
            state.routeLookups += 1
            return state.routes[sandbox]
        }
    }

    func grant(keyHash: [UInt8]) async throws -> KeyGrant? {
        state.withLock { state in
            state.grantLookups += 1
            return state.grants[keyHash]
        }
    }

    func reportActivity(of sandboxes: [SandboxID]) async throws {
        state.withLock { $0.reported.append(sandboxes) }
    }

    func followChanges(_ handle: @Sendable (RouteChange) -> Void) async throws {
        handle(.resync)
        for await change in changes { handle(change) }
    }

    /// NOTIFY.
    func notify(_ change: RouteChange) { changing.yield(change) }
}
