import Domain
import Limiting
import Logging
import NIOCore
import Store

/// What all event loops share.
struct ProxyShared: Sendable {
    let limits: ProxyLimits
    let table: RouteTable
    let activity: ActivityReporter
    let clients: PlaceCounts<Place>
    let log: Logger
}

/// Everything that lives on one event loop: client connections, tunnels, and the timer that looks after both.
///
/// A request never leaves its lane, so nothing on its way takes a lock except the two cached lookups.
final class Lane {
    let shared: ProxyShared
    let pool: TunnelPool
    let admission: Admission
    private(set) var isDraining = false
    private var clients: [ObjectIdentifier: ClientConnection] = [:]
    private let requestPrefix: String
    private var requestCount: UInt64 = 0
    private var timer: RepeatedTask?

    init(shared: ProxyShared, pool: TunnelPool) {
        self.shared = shared
        self.pool = pool
        admission = Admission(table: shared.table)
        requestPrefix = String(UInt64.random(in: .min ... .max), radix: 16) + "-"
    }

    var limits: ProxyLimits { shared.limits }
    var table: RouteTable { shared.table }
    var activity: ActivityReporter { shared.activity }
    var log: Logger { shared.log }
    var clientCount: Int { clients.count }

    /// Starts the timer. Must be called on the lane's loop.
    func start(on loop: any EventLoop) {
        let lane = NIOLoopBound(self, eventLoop: loop)
        timer = loop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in lane.value.tick() }
    }

    func nextRequestID() -> String {
        requestCount += 1
        return requestPrefix + String(requestCount, radix: 16)
    }

    func join(_ client: ClientConnection) { clients[ObjectIdentifier(client)] = client }

    func leave(_ client: ClientConnection) { clients.removeValue(forKey: ObjectIdentifier(client)) }

    private func tick() {
        let now = NIODeadline.now()
        for client in Array(clients.values) { client.tick(now: now) }
        pool.sweep(now: now)
    }

    /// Idle connections are closed now, the others after the response they are at.
    func drain() {
        isDraining = true
        for client in Array(clients.values) where client.isIdle { client.cut() }
        pool.closeIdle()
    }

    /// Cuts what is left.
    func stop() {
        timer?.cancel()
        for client in Array(clients.values) { client.cut() }
        pool.closeIdle()
    }
}
