import Domain
import FoundationEssentials
import HTTPTypes
import Hummingbird
import NIOCore
import Postgres
import Store
import Synchronization

/// What builds print, of snapshots and of sandboxes. The log is rows, so any API answers for any build, from any byte on.
struct BuildLogRoutes: Sendable {
    let sandboxes: SandboxService
    let configuration: APIConfiguration
    private let followers = FollowerCount()

    init(sandboxes: SandboxService, configuration: APIConfiguration) {
        self.sandboxes = sandboxes
        self.configuration = configuration
    }

    private var database: any PostgresClient { sandboxes.database }

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/sandbox/{id}/build-logs-url", "get_build_logs_url", .key) { call in
                let sandbox = try await sandboxes.find(call.parameter("id"), for: try call.caller)
                _ = try await sandboxLog(sandbox.id, try call.caller)
                return try url("/sandbox/\(sandbox.id)/build-logs", call)
            },
            APIRoute(.get, "/sandbox/{id}/build-logs", "get_build_logs", .key) { call in
                let caller = try call.caller
                let sandbox = try await sandboxes.find(call.parameter("id"), for: caller)
                return try await log(call) { try await sandboxLog(sandbox.id, caller) }
            },
            APIRoute(.get, "/snapshots/{id}/build-logs-url", "get_snapshot_build_logs_url", .key) { call in
                let snapshot = try await snapshot(call)
                _ = try await snapshotLog(snapshot, try call.caller)
                return try url("/snapshots/\(snapshot)/build-logs", call)
            },
            APIRoute(.get, "/snapshots/{id}/build-logs", "get_snapshot_build_logs", .key) { call in
                let (caller, snapshot) = (try call.caller, try await snapshot(call))
                return try await log(call) { try await snapshotLog(snapshot, caller) }
            },
        ]
    }

    private func snapshot(_ call: Call) async throws -> SnapshotID {
        let wanted = call.parameter("id")
        guard let found = try await database.snapshots.find(wanted, for: try call.caller.organization) else {
            throw APIError.notFound("there is no snapshot with the id or name '\(wanted.shortened)'")
        }
        return found.id
    }

    private func sandboxLog(_ id: SandboxID, _ caller: Caller) async throws -> BuildLogSource {
        guard let source = try await database.builds.log(of: id, in: caller.organization) else {
            throw APIError.notFound("nothing was built for this sandbox, so there is no log of it")
        }
        return source
    }

    private func snapshotLog(_ id: SnapshotID, _ caller: Caller) async throws -> BuildLogSource {
        guard let source = try await database.builds.log(of: id, in: caller.organization) else {
            throw APIError.notFound("this snapshot was not built, so there is no log of it")
        }
        return source
    }

    /// The SDK adds `?follow=true` to it, so it has no query.
    private func url(_ path: String, _ call: Call) throws -> Response {
        let base = configuration.publicURL ?? "http://\(call.request.head.authority ?? "")"
        return try .json(URLWire(url: base + RouteTable.prefix + path))
    }

    /// Throws where there is none before an answer begins; later, what goes wrong ends the answer.
    private func log(_ call: Call, _ source: @escaping @Sendable () async throws -> BuildLogSource) async throws
        -> Response
    {
        var query = QueryReader(call.query)
        let isFollowed = query.bool("follow") ?? false
        let offset = query.integer("offset", in: 0...Int.max) ?? 0
        try query.finish()
        let pieces = BuildLogPieces(
            database: database,
            limits: configuration.limits,
            followers: isFollowed ? followers : nil,
            offset: offset,
            first: try await source(),
            source: source
        )
        return Response(
            status: .ok,
            headers: [.contentType: "text/plain; charset=utf-8"],
            body: .init(asyncSequence: pieces)
        )
    }
}

/// The log of one build for one client, as it comes. Ends with the build.
struct BuildLogPieces: AsyncSequence, Sendable {
    typealias Element = ByteBuffer

    let database: any PostgresClient
    let limits: APILimits
    /// Nil for the log as it is.
    let followers: FollowerCount?
    let offset: Int
    let first: BuildLogSource
    let source: @Sendable () async throws -> BuildLogSource

    func makeAsyncIterator() -> Iterator { Iterator(self) }

    struct Iterator: AsyncIteratorProtocol {
        private let pieces: BuildLogPieces
        /// Nil where as many follow as may: then it is the log as it is.
        private let seat: FollowerSeat?
        private let deadline: ContinuousClock.Instant
        private var offset: Int
        private var current: BuildLogSource

        fileprivate init(_ pieces: BuildLogPieces) {
            self.pieces = pieces
            seat = pieces.followers.flatMap { FollowerSeat($0, limit: pieces.limits.logFollowersLimit) }
            deadline = .now + pieces.limits.logFollowLimit
            (offset, current) = (pieces.offset, pieces.first)
        }

        mutating func next() async throws -> ByteBuffer? {
            while true {
                let bytes = try await pieces.database.builds.readLog(of: current.builder, from: offset)
                if !bytes.isEmpty {
                    offset += bytes.count
                    return ByteBuffer(bytes: bytes)
                }
                // Read after it was known to have ended, so this was the end of it.
                guard seat != nil, current.isUnderWay, .now < deadline else { return nil }
                try await Task.sleep(for: pieces.limits.logPollInterval)
                let latest = try await pieces.source()
                // Another build took over from one that was deleted: its log begins with it.
                if latest.builder != current.builder { offset = 0 }
                current = latest
            }
        }
    }
}

/// One of those who follow a log; given back when it is let go of, however that comes.
private final class FollowerSeat: Sendable {
    private let count: FollowerCount

    /// Nil where all are taken.
    init?(_ count: FollowerCount, limit: Int) {
        guard count.enter(limit: limit) else { return nil }
        self.count = count
    }

    deinit { count.leave() }
}

/// How many clients follow a log.
final class FollowerCount: Sendable {
    private let count = Mutex(0)

    func enter(limit: Int) -> Bool {
        count.withLock { count in
            guard count < limit else { return false }
            count += 1
            return true
        }
    }

    func leave() { count.withLock { $0 -= 1 } }
}
