import Glibc
import Limiting
package import Logging
package import NIOCore
import NIOPosix
import Proxy
import ServiceLifecycle
import SSHServing
package import Store

/// Where the gateway listens, and how far it goes.
package struct SSHGatewayConfiguration: Sendable {
    /// Address to bind.
    package var host: String
    /// 0 takes any free port.
    package var port: Int
    /// The file with the host key; made when there is none.
    package var hostKeyFile: String
    package var limits = GatewayLimits()

    package init(host: String, port: Int, hostKeyFile: String) {
        self.host = host
        self.port = port
        self.hostKeyFile = hostKeyFile
    }
}

/// The way into sandboxes by SSH: the user's name is the token.
///
/// Bind it, then run it in the service group after the database pool, so that it stops first.
package struct SSHGatewayService: Service {
    private struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// What is listened on.
    package let port: Int
    /// The host key, as in a line of a known_hosts file.
    package let hostKey: String

    private let listener: OwnedSocket
    private let stopped: Mailbox<GatewayNews>
    private let floor: GatewayFloor
    private let source: any SSHAccessSource

    /// Listens; connections are taken once ``run()`` runs. Throws if the address is taken, or there is no host key.
    package static func bind(
        _ configuration: SSHGatewayConfiguration,
        source: any SSHAccessSource,
        log: Logger,
        group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
    ) async throws -> SSHGatewayService {
        let limits = configuration.limits
        let (hostKey, clientKey, listener) = try await NIOThreadPool.singleton.runIfActive {
            let hostKey = try HostKeyFile.load(configuration.hostKeyFile)
            guard let clientKey = KeyPair.newFile().flatMap({ KeyPair(file: $0) }) else {
                throw Failure(description: "cannot make a key")
            }
            return (hostKey, clientKey, try listen(configuration))
        }
        let tunnels = try RunnerTunnels(group: group, limits: limits)
        let floor = GatewayFloor(
            limits: limits,
            hostKey: hostKey,
            clientKey: clientKey,
            desk: ErrandDesk(source: source, tunnels: tunnels, limits: limits, log: log),
            activity: ActivityReporter(sink: source, limits: ProxyLimits(), log: log),
            log: log
        )
        return SSHGatewayService(listener: listener, stopped: try Mailbox(), floor: floor, source: source)
    }

    private init(listener: OwnedSocket, stopped: Mailbox<GatewayNews>, floor: GatewayFloor, source: any SSHAccessSource)
    {
        port = PeerAddress.of(listener.descriptor).port
        hostKey = floor.hostKey.line
        (self.listener, self.stopped, self.floor, self.source) = (listener, stopped, floor, source)
    }

    private static func listen(_ configuration: SSHGatewayConfiguration) throws -> OwnedSocket {
        let name = "\(configuration.host):\(configuration.port)"
        guard let address = PeerAddress.resolve(configuration.host, port: UInt16(configuration.port)).first else {
            throw Failure(description: "\(name) cannot be listened on: the host has no address")
        }
        guard let socket = address.listeningSocket(backlog: 1024) else {
            throw Failure(description: "\(name) cannot be listened on: \(String(cString: strerror(errno)))")
        }
        return OwnedSocket(socket)
    }

    /// Open connections, for tests.
    package var openConnections: Int { floor.count }

    /// Serves until graceful shutdown, then lets sessions go on for the drain deadline. Cancellation ends them at once.
    package func run() async throws {
        floor.log.info("ssh gateway listens", metadata: ["ssh.port": "\(port)", "ssh.host-key": "\(hostKey)"])
        try startThread("martlet-ssh-in") { acceptConnections() }
        await withTaskGroup { group in
            group.addTask { await floor.desk.run() }
            group.addTask { await floor.activity.run() }
            group.addTask { await follow() }
            let isGraceful = await (try? gracefulShutdown()) != nil
            floor.close()
            stopped.post(.end(Farewell.shutdown))
            if isGraceful { await waitForEnds(atMost: floor.limits.drainDeadline) }
            floor.endAll(Farewell.shutdown)
            await waitForEnds(atMost: floor.limits.farewellDeadline)
            group.cancelAll()
        }
        await floor.activity.reportOnce()
    }

    /// Polls, because it happens once.
    private func waitForEnds(atMost limit: Duration) async {
        let deadline = ContinuousClock.now + limit
        while floor.count > 0, .now < deadline, (try? await Task.sleep(for: .milliseconds(20))) != nil {}
    }

    /// A follower that failed is started again; everything is looked at then, by its first `.resync`.
    private func follow() async {
        while !Task.isCancelled {
            do {
                try await source.followChanges { floor.apply($0) }
            } catch {
                floor.log.warning("changes of ssh access cannot be followed", metadata: ["error": "\(error)"])
            }
            try? await Task.sleep(for: .seconds(1))
        }
    }

    // MARK: - Connections

    private func acceptConnections() {
        while true {
            var list = [
                pollfd(fd: listener.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: stopped.wake, events: Int16(POLLIN), revents: 0),
            ]
            poll(&list, nfds_t(list.count), -1)
            if list[1].revents != 0 { break }
            let descriptor = accept(listener.descriptor, nil, nil)
            // With no descriptor left for it, a connection stays acceptable: the thread must not spin.
            if descriptor >= 0 { begin(descriptor) } else if errno != EAGAIN { usleep(50_000) }
        }
        close(listener.take())
    }

    private func begin(_ descriptor: CInt) {
        prepareClientSocket(descriptor)
        let address = PeerAddress.of(descriptor, otherEnd: true).host
        let place = Place(of: address)
        guard let mailbox = try? Mailbox<GatewayNews>(), floor.admit(mailbox, from: place) else {
            floor.log.warning("ssh connection refused: too many", metadata: ["ssh.client": "\(address)"])
            close(descriptor)
            return
        }
        do {
            try startThread("martlet-ssh-one") { [floor] in
                GatewayConnection(descriptor, from: address, floor, mailbox)?.run()
                floor.leave(mailbox, from: place)
            }
        } catch {
            floor.log.warning("ssh connection refused", metadata: ["error": "\(error)"])
            floor.leave(mailbox, from: place)
            close(descriptor)
        }
    }
}

/// Never blocks, sends at once, and finds out about a client that is gone without a word within two minutes.
private func prepareClientSocket(_ descriptor: CInt) {
    setNonBlocking(descriptor)
    let options = [
        (SOL_SOCKET, SO_KEEPALIVE, 1), (CInt(IPPROTO_TCP), TCP_NODELAY, 1), (CInt(IPPROTO_TCP), TCP_KEEPIDLE, 60),
        (CInt(IPPROTO_TCP), TCP_KEEPINTVL, 15), (CInt(IPPROTO_TCP), TCP_KEEPCNT, 4),
    ]
    for (level, name, number) in options {
        var value = CInt(number)
        setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<CInt>.size))
    }
}
