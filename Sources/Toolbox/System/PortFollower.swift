import HTTPTypes
import Hummingbird
import NIOCore
import ServiceLifecycle
import Synchronization

/// Limits of following the ports.
package enum PortFollowLimit {
    /// Clients that follow at a time.
    package static let followers = 8
    /// Between two looks; longer where a look takes long, so that looking never takes more than a twentieth of the time.
    package static let pause = Duration.seconds(1)
    package static let pauseFactor = 20
    /// Longest time without a line.
    package static let silence = Duration.seconds(15)
}

/// What changed between two looks.
package struct PortChange: Encodable, Sendable, Equatable {
    package var opened: [Int]
    package var closed: [Int]

    package init(from old: Set<Int>, to new: Set<Int>) {
        opened = new.subtracting(old).sorted()
        closed = old.subtracting(new).sorted()
    }

    package var isEmpty: Bool { opened.isEmpty && closed.isEmpty }
}

/// Looks at the ports again and again for one client, and makes a line of what changed.
struct PortFollower {
    let call: ToolboxCall
    private var known: Set<Int> = []
    private var spokeAt: ContinuousClock.Instant?
    private var restUntil = ContinuousClock.now

    init(call: ToolboxCall) {
        self.call = call
    }

    /// The next line; nil when the client left or the sandbox stops.
    mutating func next(_ look: () async throws -> Set<Int>) async throws -> ByteBuffer? {
        while try await rest() {
            let began = ContinuousClock.now
            let change = try await PortChange(from: known, to: look())
            let now = ContinuousClock.now
            restUntil = now + max(PortFollowLimit.pause, (now - began) * PortFollowLimit.pauseFactor)
            known.formUnion(change.opened)
            known.subtract(change.closed)
            guard !change.isEmpty || spokeAt.map({ now - $0 >= PortFollowLimit.silence }) ?? true else { continue }
            spokeAt = now
            var line = try encodeJSON(change)
            line.writeString("\n")
            return line
        }
        return nil
    }

    /// Waits until the next look is due; false if there shall be none.
    private func rest() async throws -> Bool {
        let sleep = Task { [restUntil] in try await Task.sleep(until: restUntil, clock: .continuous) }
        defer { sleep.cancel() }
        return try await call.whileConnected(onDisconnect: { sleep.cancel() }) {
            await withGracefulShutdownHandler {
                if case .success = await sleep.result { true } else { false }
            } onGracefulShutdown: {
                sleep.cancel()
            }
        }
    }
}

/// How many follow.
final class FollowerCount: Sendable {
    /// Counts as one as long as it lives.
    final class Ticket: Sendable {
        private let count: FollowerCount

        fileprivate init(_ count: FollowerCount) { self.count = count }

        deinit { count.value.withLock { $0 -= 1 } }
    }

    private let value = Mutex(0)

    /// - Throws: 429 above `PortFollowLimit.followers`.
    func enter() throws -> Ticket {
        try value.withLock { value in
            guard value < PortFollowLimit.followers else {
                throw ToolboxError(
                    .tooManyRequests,
                    "TOO_MANY_REQUESTS",
                    "\(value) clients follow the ports, the limit; end one of their requests first"
                )
            }
            value += 1
        }
        return Ticket(self)
    }
}
