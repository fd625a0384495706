import HTTPTypes
import NIOCore
import Synchronization

/// All sessions, by id.
final class SessionTable: Sendable {
    fileprivate enum Entry {
        /// The id is taken; the shell is being started.
        case starting
        case live(Session, number: Int)
    }

    fileprivate struct State {
        var entries: [String: Entry] = [:]
        var created = 0
    }

    private let state = Mutex(State())

    init() {}

    /// Adds the session that `start` makes.
    /// - Throws: 400 for an id that is none, 409 for one that is taken, 429 if there are too many, and what `start` throws.
    func add(_ id: String, _ start: () async throws -> Session) async throws {
        try Self.check(id)
        try state.withLock { try $0.reserve(id) }
        do {
            let session = try await start()
            state.withLock { state in
                state.created += 1
                state.entries[id] = .live(session, number: state.created)
            }
        } catch {
            state.withLock { $0.entries[id] = nil }
            throw error
        }
    }

    /// - Throws: 404.
    func find(_ id: String) throws -> Session {
        guard case .live(let session, _) = state.withLock({ $0.entries[id] }) else { throw Self.unknown(id) }
        return session
    }

    /// Takes a session out; its id is free again.
    /// - Throws: 404.
    func remove(_ id: String) throws -> Session {
        try state.withLock { state in
            guard case .live(let session, _) = state.entries[id] else { throw Self.unknown(id) }
            state.entries[id] = nil
            return session
        }
    }

    /// In the order of creation.
    var all: [Session] {
        let live = state.withLock { state in
            state.entries.values.compactMap { entry -> (Session, Int)? in
                guard case .live(let session, let number) = entry else { return nil }
                return (session, number)
            }
        }
        return live.sorted { $0.1 < $1.1 }.map(\.0)
    }

    private static func check(_ id: String) throws {
        guard !id.isEmpty else { throw ToolboxError.badRequest("field 'sessionId' is empty") }
        guard id.utf8.count <= SessionLimit.idBytes else {
            throw ToolboxError.badRequest(
                "field 'sessionId' is \(id.utf8.count) bytes long, the limit is \(SessionLimit.idBytes)"
            )
        }
        guard id.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F }), id != ".", id != ".." else {
            throw ToolboxError.badRequest("field 'sessionId' is '.' or '..' or holds a control character")
        }
        guard id != Entrypoint.sessionID else {
            throw ToolboxError.badRequest("field 'sessionId' is '\(id)', which is reserved for the image's own program")
        }
    }

    private static func unknown(_ id: String) -> ToolboxError {
        .unknown(
            "there is no session '\(id)': it was not created, was deleted, or ended with an earlier run of the sandbox; create it"
        )
    }
}

extension SessionTable.State {
    mutating func reserve(_ id: String) throws {
        guard entries[id] == nil else {
            throw ToolboxError(.conflict, "CONFLICT", "session '\(id)' exists already; delete it or use another id")
        }
        guard entries.count < SessionLimit.sessions else {
            throw ToolboxError(
                .tooManyRequests,
                "TOO_MANY_REQUESTS",
                "there are \(entries.count) sessions, the limit of a sandbox; delete some"
            )
        }
        entries[id] = .starting
    }
}
