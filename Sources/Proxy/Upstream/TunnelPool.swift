import Domain
import NIOCore
import NIOPosix
import Store
import Tunnels

/// The tunnels of one event loop: idle ones wait here, the latest used is taken first, so that the rest can go.
final class TunnelPool {
    private let loop: any EventLoop
    private let connector: IngressConnector
    private let local: LocalIngress?
    private let limits: ProxyLimits
    private let perSandboxLimit: Int
    private var idle: [TunnelKey: [Tunnel]] = [:]
    private var open: [SandboxID: Int] = [:]

    /// - Parameter share: how many pools divide the limit of tunnels to one sandbox.
    init(loop: any EventLoop, connector: IngressConnector, local: LocalIngress?, limits: ProxyLimits, share: Int) {
        self.loop = loop
        self.connector = connector
        self.local = local
        self.limits = limits
        perSandboxLimit = max(1, limits.tunnelsPerSandboxLimit / share)
    }

    /// An idle tunnel, or nil.
    func take(_ key: TunnelKey) -> Tunnel? {
        while let tunnel = idle[key]?.popLast() {
            if tunnel.phase == .idle { return tunnel }
        }
        return nil
    }

    func give(_ tunnel: Tunnel) {
        idle[tunnel.key, default: []].append(tunnel)
    }

    /// Called by each tunnel when it closes.
    func forget(_ tunnel: Tunnel) {
        idle[tunnel.key]?.removeAll { $0 === tunnel }
        if idle[tunnel.key]?.isEmpty ?? false { idle[tunnel.key] = nil }
        let count = open[tunnel.key.sandbox, default: 1] - 1
        open[tunnel.key.sandbox] = count > 0 ? count : nil
    }

    /// Opens a new tunnel; `done` is called once, on this loop.
    func open(
        _ key: TunnelKey,
        to destination: Destination,
        done: @escaping (Result<Tunnel, TunnelFailure>) -> Void
    ) {
        guard let ingress = destination.ingress else {
            let text =
                "the runner's ingress address '\(destination.route.ingressAddress)' is not host:port; correct its row"
            return done(.failure(TunnelFailure(refusal: .badGateway(text), routeIsStale: true)))
        }
        guard open[key.sandbox, default: 0] < perSandboxLimit else {
            let text = "sandbox \(key.sandbox) has its limit of \(limits.tunnelsPerSandboxLimit) requests at once; "
            let refusal = ProxyRefusal(429, "TOO_MANY_REQUESTS", text + "wait for some to end")
            return done(.failure(TunnelFailure(refusal: refusal, routeIsStale: false)))
        }
        open[key.sandbox, default: 0] += 1
        let tunnel = Tunnel(key, to: destination, pool: self, limits: limits, opened: done)
        let deadline = loop.assumeIsolated().scheduleTask(in: limits.tunnelDeadline) {
            guard tunnel.phase == .opening else { return }
            tunnel.refuse(.timeout("the runner did not open a tunnel in time; check that it is up and reachable"))
        }
        let fingerprint = destination.route.tlsFingerprint
        guard let asked = local?.ask(fingerprint, destination.connectHead(port: key.port), on: loop) else {
            return connect(tunnel, to: ingress, fingerprint: fingerprint, deadline)
        }
        asked.assumeIsolated().whenComplete { result in
            guard tunnel.phase == .opening else { return }
            switch (try? result.get()) ?? .absent {
            case .connected(let socket): self.adopt(socket, for: tunnel, deadline)
            case .absent: self.connect(tunnel, to: ingress, fingerprint: fingerprint, deadline)
            case .refused(let status, let body):
                deadline.cancel()
                tunnel.refuse(Tunnel.refusal(status, body))
            }
        }
    }

    /// The tunnel is the connection into the sandbox itself.
    private func adopt(_ socket: HandedOverSocket, for tunnel: Tunnel, _ deadline: Scheduled<Void>) {
        guard let descriptor = socket.take() else { return }
        tunnel.adopt(socket)
        let bound = NIOLoopBound(tunnel, eventLoop: loop)
        ClientBootstrap(group: loop)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(bound.value)
                    channel.closeFuture.whenComplete { _ in deadline.cancel() }
                }
            }
            .withConnectedSocket(descriptor)
            .assumeIsolated()
            .whenFailure { _ in
                deadline.cancel()
                tunnel.refuse(.unavailable("the connection that the runner handed over is lost; try again"))
            }
    }

    private func connect(
        _ tunnel: Tunnel,
        to ingress: (host: String, port: Int),
        fingerprint: String,
        _ deadline: Scheduled<Void>
    ) {
        connector.connect(
            to: ingress,
            fingerprint: fingerprint,
            within: limits.tunnelDeadline,
            on: loop,
            receiveBufferBytes: limits.tunnelReceiveBufferBytes,
            handler: tunnel
        )
        .assumeIsolated()
        .whenComplete { result in
            switch result {
            case .success(let channel): channel.closeFuture.whenComplete { _ in deadline.cancel() }
            case .failure(ChannelError.connectTimeout):
                deadline.cancel()
                tunnel.refuse(.timeout("the runner at \(ingress.host):\(ingress.port) did not answer in time"))
            case .failure:
                deadline.cancel()
                tunnel.refuse(
                    .unavailable("the runner at \(ingress.host):\(ingress.port) cannot be reached; is it up?")
                )
            }
        }
    }

    /// Closes what nobody has used for long.
    func sweep(now: NIODeadline) {
        for tunnel in idle.values.joined() where tunnel.idleSince + limits.tunnelIdleLimit <= now { tunnel.abandon() }
    }

    func closeIdle() {
        for tunnel in Array(idle.values.joined()) { tunnel.abandon() }
    }
}
