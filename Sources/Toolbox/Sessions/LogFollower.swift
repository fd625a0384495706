import HTTPTypes
import WebSockets

/// Sends a log over a WebSocket: what there is, then what comes, until the program has ended and all of its output is sent.
/// A client that reads slowly costs one piece of memory; what is forgotten before it comes to it is a gap for it.
struct LogFollower: Sendable {
    private let log: OutputLog

    /// - Throws: 429 if too many clients follow the log.
    static func accept(_ log: OutputLog) throws -> WebSocketAnswer {
        guard log.addFollower() else {
            throw ToolboxError(
                .tooManyRequests,
                "TOO_MANY_REQUESTS",
                "\(LogLimit.followers) clients follow this log already, the limit; close some"
            )
        }
        let place = Place(log)
        return .accept { socket in
            defer { withExtendedLifetime(place) {} }
            try await LogFollower(log: log).run(socket)
        }
    }

    private init(log: OutputLog) {
        self.log = log
    }

    private func run(_ socket: WebSocket) async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            // Nothing that the client sends means anything, but its pings are only answered while messages are taken.
            tasks.addTask { for await _ in socket.messages {} }
            try await send(to: socket)
            tasks.cancelAll()
        }
    }

    private func send(to socket: WebSocket) async throws {
        var framer = MarkerFramer()
        var cursor = LogCursor(log, upTo: nil)
        try await socket.send(.binary(framer.begin()))
        while let piece = await cursor.next() {
            try await socket.send(.binary(framer.frame(piece, gapNote: log.gapNote)))
        }
    }

    /// One of a log's places for followers, given back also if the handshake comes to nothing.
    private final class Place: Sendable {
        private let log: OutputLog

        init(_ log: OutputLog) { self.log = log }

        deinit { log.removeFollower() }
    }
}
