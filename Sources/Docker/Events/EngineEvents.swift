import AsyncHTTPClient
import FoundationEssentials
import Logging
import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1

/// One thing to know about the engine's objects.
package enum EngineNotice: Sendable, Hashable {
    /// The stream is (again) connected and may have missed something: look at everything.
    case resync
    case event(EngineEvent)
}

/// Something that happened in the engine.
package struct EngineEvent: Sendable, Hashable {
    /// What it happened to.
    package enum Kind: String, Sendable, Hashable, CaseIterable {
        case container, image, network, volume, daemon
    }

    package let kind: Kind
    /// `create`, `start`, `die`, `oom`, `destroy`, …; some carry arguments: `exec_create: sh`.
    package let action: String
    package let actorID: String
    /// Labels, and `name`, `image`, `exitCode`, `signal` where they apply.
    package let attributes: [String: String]
    package let time: EngineTime
}

extension DockerEngine {
    /// The engine's events about objects bearing all `labels`, for ever.
    ///
    /// Connects when the first notice is asked for and again whenever the stream breaks, with backoff, resuming where it
    /// broke. Each connection begins with `.resync`, since the engine remembers only its last few hundred events. Nothing is
    /// buffered here beyond one line: the engine drops events for a reader that stalls, so do no slow work between two pulls.
    package func events(
        labels: [String: String?] = [:],
        kinds: [EngineEvent.Kind] = [.container],
        since: EngineTime? = nil
    ) -> EngineEvents {
        EngineEvents(engine: self, labels: labels, kinds: kinds, since: since)
    }
}

/// See `DockerEngine.events`. Iterating throws only `CancellationError`.
package struct EngineEvents: AsyncSequence, Sendable {
    package typealias Element = EngineNotice

    fileprivate let engine: DockerEngine
    fileprivate let labels: [String: String?]
    fileprivate let kinds: [EngineEvent.Kind]
    fileprivate let since: EngineTime?

    package func makeAsyncIterator() -> Iterator {
        Iterator(source: self)
    }

    /// Owns the connection; dropping it closes the stream.
    package struct Iterator: AsyncIteratorProtocol {
        private let source: EngineEvents
        private var lines: LineReader?
        private var resumeAt: EngineTime?
        private var failures = 0

        fileprivate init(source: EngineEvents) {
            self.source = source
            resumeAt = source.since
        }

        /// The next notice; never nil. Throws `CancellationError` when the task is cancelled.
        package mutating func next() async throws -> EngineNotice? {
            while true {
                try Task.checkCancellation()
                do {
                    guard lines != nil else {
                        try await connect()
                        return .resync
                    }
                    if let event = try await readEvent() { return .event(event) }
                } catch {
                    try Task.checkCancellation()
                    lines = nil
                    source.engine.logger.warning("event stream of the engine broke", metadata: ["error": "\(error)"])
                }
            }
        }

        private mutating func connect() async throws {
            try await Task.sleep(for: pause)
            // The engine subscribes only after it has sent its answer's head; `since` covers that gap.
            let start = resumeAt ?? .now()
            resumeAt = start
            failures += 1
            let response = try await source.engine.open(
                try source.call(since: start),
                within: source.engine.limits.call
            )
            lines = LineReader(response.body)
        }

        /// nil at the end of the connection, and for an event of a kind not known here.
        private mutating func readEvent() async throws -> EngineEvent? {
            guard let line = try await lines?.next() else {
                lines = nil
                return nil
            }
            failures = 0
            let answer = try JSONDecoder().decode(EventAnswer.self, from: Data(buffer: line))
            resumeAt = EngineTime(nanoseconds: answer.nanoseconds + 1)
            return answer.event
        }

        /// Nothing before the first try, then 0.1 s doubling to 5 s until an event arrives.
        private var pause: Duration {
            failures == 0 ? .zero : Swift.min(.milliseconds(100 << Swift.min(failures - 1, 6)), .seconds(5))
        }
    }

    fileprivate func call(since: EngineTime) throws -> EngineCall {
        let filters = labelFilters(labels, adding: ["type": kinds.map(\.rawValue)])
        return try EngineCall(
            "follow the engine's events",
            .GET,
            ["events"],
            query: [("since", since.parameter), ("filters", try filters.encodedText())]
        )
    }
}

private struct EventAnswer: Decodable {
    struct Actor: Decodable {
        let id: String
        let attributes: [String: String]?
        enum CodingKeys: String, CodingKey {
            case id = "ID"
            case attributes = "Attributes"
        }
    }

    let type: String
    let action: String
    let actor: Actor
    let nanoseconds: Int64

    enum CodingKeys: String, CodingKey {
        case type = "Type"
        case action = "Action"
        case actor = "Actor"
        case nanoseconds = "timeNano"
    }

    var event: EngineEvent? {
        EngineEvent.Kind(rawValue: type).map {
            EngineEvent(
                kind: $0,
                action: action,
                actorID: actor.id,
                attributes: actor.attributes ?? [:],
                time: EngineTime(nanoseconds: nanoseconds)
            )
        }
    }
}
