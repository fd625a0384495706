import Domain
import Logging
import Proxy
import SSHServing
import Store

/// Does for the connections' threads what waits for the database or for a runner; the answer comes by mailbox.
final class ErrandDesk: Sendable {
    private struct Admission: Sendable {
        var tokenHash: [UInt8]
        var mailbox: Mailbox<GatewayNews>
    }

    private struct Opening: Sendable {
        var destination: Destination
        var port: Int
        var mailbox: Mailbox<GatewayNews>
    }

    private struct Busy: Error {}

    private let source: any SSHAccessSource
    private let tunnels: RunnerTunnels
    private let limits: GatewayLimits
    private let log: Logger
    private let admissions: (stream: AsyncStream<Admission>, continuation: AsyncStream<Admission>.Continuation)
    private let openings: (stream: AsyncStream<Opening>, continuation: AsyncStream<Opening>.Continuation)

    init(source: any SSHAccessSource, tunnels: RunnerTunnels, limits: GatewayLimits, log: Logger) {
        self.source = source
        self.tunnels = tunnels
        self.limits = limits
        self.log = log
        admissions = AsyncStream.makeStream(of: Admission.self, bufferingPolicy: .bufferingOldest(limits.errandsLimit))
        openings = AsyncStream.makeStream(of: Opening.self, bufferingPolicy: .bufferingOldest(limits.errandsLimit))
    }

    /// Asks what the token with this SHA-256 opens.
    func admit(_ tokenHash: [UInt8], tell mailbox: Mailbox<GatewayNews>) {
        if case .enqueued = admissions.continuation.yield(Admission(tokenHash: tokenHash, mailbox: mailbox)) { return }
        mailbox.post(.admission(.failure(Busy())))
    }

    /// Opens a tunnel to a port in a sandbox.
    func open(_ destination: Destination, port: Int, tell mailbox: Mailbox<GatewayNews>) {
        if case .enqueued = openings.continuation.yield(Opening(destination: destination, port: port, mailbox: mailbox))
        {
            return
        }
        mailbox.post(.tunnel(.failure(TunnelRefusal(message: "the gateway is overloaded; try again in a moment"))))
    }

    /// Does errands until cancelled.
    func run() async {
        await withDiscardingTaskGroup { group in
            group.addTask { await self.answerAdmissions() }
            group.addTask { await self.openTunnels() }
        }
    }

    private func answerAdmissions() async {
        await withTaskGroup(of: Void.self) { group in
            var free = limits.admissionsAtOnceLimit
            for await admission in admissions.stream {
                if free == 0 { await group.next() } else { free -= 1 }
                group.addTask { await self.answer(admission) }
            }
        }
    }

    private func answer(_ admission: Admission) async {
        do {
            let found = try await source.admission(tokenHash: admission.tokenHash)
            admission.mailbox.post(.admission(.success(found)))
        } catch {
            log.error("admission cannot be looked up", metadata: ["error": "\(error)"])
            admission.mailbox.post(.admission(.failure(error)))
        }
    }

    private func openTunnels() async {
        await withDiscardingTaskGroup { group in
            for await opening in openings.stream {
                group.addTask {
                    let result = await self.tunnels.open(opening.destination, port: opening.port)
                    opening.mailbox.post(.tunnel(result))
                }
            }
        }
    }
}
