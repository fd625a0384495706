import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// Volumes of the caller's organization. Runners make and remove them in S3.
struct VolumeRoutes: Sendable {
    let database: any PostgresClient
    let limits: APILimits

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/volumes", "list_volumes", .permission(.readVolumes), list),
            APIRoute(.post, "/volumes", "create_volume", .permission(.writeVolumes), create),
            APIRoute(.get, "/volumes/{id}", "get_volume", .permission(.readVolumes)) { call in
                try .json(VolumeWire(try await find(call)))
            },
            APIRoute(.get, "/volumes/by-name/{name}", "get_volume_by_name", .permission(.readVolumes)) { call in
                let name = call.parameter("name")
                let found = try await database.volumes.find(named: name, in: try call.caller.organization)
                guard let found else {
                    throw APIError.notFound("there is no volume with the name '\(name.shortened)' in this organization")
                }
                return try .json(VolumeWire(found))
            },
            APIRoute(.delete, "/volumes/{id}", "delete_volume", .permission(.deleteVolumes), delete),
        ]
    }

    /// The same words whether it never was, is gone, or is somebody else's.
    private func find(_ call: Call) async throws -> VolumeRecord {
        let text = call.parameter("id")
        guard let id = VolumeID(text),
            let found = try await database.volumes.find(id, in: try call.caller.organization)
        else { throw APIError.notFound("there is no volume with the id '\(text.shortened)' in this organization") }
        return found
    }

    private func list(_ call: Call) async throws -> Response {
        var query = QueryReader(call.query)
        let includesDeleted = query.bool("includeDeleted") ?? false
        try query.finish()
        let organization = try call.caller.organization
        let found = try await database.volumes.list(in: organization, includesDeleted: includesDeleted)
        return try .json(found.map(VolumeWire.init))
    }

    /// Answers when it is ready or failed, or when the hold is over: then with the state on its way.
    private func create(_ call: Call) async throws -> Response {
        let caller = try call.caller
        var fields = FieldReader(try await call.object())
        let name = fields.string("name", limit: 4 * SandboxRules.nameLimit) ?? ""
        if fields.problems.isEmpty, let problem = SandboxRules.problem(ofName: name) { fields.complain(problem) }
        try fields.finish()
        guard try await database.volumes.areOffered() else {
            throw APIError.unsupported(
                "no runner mounts volumes as yet. An operator gives them an S3 (MARTLET_S3_ENDPOINT and its kin)"
            )
        }
        let id = VolumeID.random()
        do {
            try await database.volumes.insert(id, named: name, in: caller.organization, by: caller.actor)
        } catch let error as PostgresError where error.constraint == "volume_name_is_unique" {
            throw APIError.conflict(
                "a volume with the name '\(name.shortened)' exists already. Choose another name, or use that one"
            )
        }
        return try .json(VolumeWire(try await hold(id, for: caller)))
    }

    /// Waits until nothing more happens to make it, or the time is over.
    private func hold(_ id: VolumeID, for caller: Caller) async throws -> VolumeRecord {
        let deadline = ContinuousClock.now + limits.volumeHold
        while true {
            guard let found = try await database.volumes.find(id, in: caller.organization) else {
                throw APIError.conflict("the volume was deleted while it was made")
            }
            if found.isSettled || ContinuousClock.now >= deadline { return found }
            try await Task.sleep(for: limits.volumePollInterval)
        }
    }

    private func delete(_ call: Call) async throws -> Response {
        let (caller, found) = (try call.caller, try await find(call))
        switch found.state {
        case .pendingDelete, .deleting, .deleted: return .empty(.ok)
        case .error where found.wish == .deleted: return .empty(.ok)
        case .pendingCreate, .creating:
            throw APIError.badRequest(
                "volume '\(found.name)' is \(found.state.rawValue); it can be deleted once it is ready or in error"
            )
        case .ready, .error:
            _ = try await database.volumes.delete(found.id, in: caller.organization, by: caller.actor)
            return .empty(.ok)
        }
    }
}

extension VolumeRecord {
    /// Nothing more happens to get it ready.
    fileprivate var isSettled: Bool {
        switch state {
        case .ready, .error, .pendingDelete, .deleting, .deleted: true
        case .pendingCreate, .creating: false
        }
    }
}
