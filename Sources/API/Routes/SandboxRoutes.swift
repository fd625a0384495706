import Domain
import FoundationEssentials
import Hummingbird
import Postgres
import Store

/// Making, finding, listing and deleting sandboxes.
struct SandboxRoutes: Sendable {
    let sandboxes: SandboxService
    let configuration: APIConfiguration

    var database: any PostgresClient { sandboxes.database }

    var routes: [APIRoute] {
        [
            APIRoute(.post, "/sandbox", "create_sandbox", .permission(.writeSandboxes), create),
            APIRoute(.get, "/sandbox", "list_sandboxes", .key, list),
            APIRoute(.get, "/sandbox/{id}", "get_sandbox", .key) { call in
                try answer(try await sandboxes.find(call.parameter("id"), for: try call.caller))
            },
            APIRoute(.delete, "/sandbox/{id}", "delete_sandbox", .permission(.deleteSandboxes)) { call in
                try answer(
                    try await sandboxes.change(call.parameter("id"), for: try call.caller) {
                        LifecycleDecision.destroy($0)
                    }
                )
            },
        ] + lifecycleRoutes + settingRoutes + captureRoutes
    }

    /// A sandbox on the wire.
    func answer(_ record: SandboxRecord) throws -> Response {
        try .json(SandboxWire(record, toolboxProxyURL: configuration.toolboxProxyURL))
    }

    /// Answers when it has started or failed, or when the hold is over: then with the state on its way.
    private func create(_ call: Call) async throws -> Response {
        let caller = try call.caller
        let new = try await newSandbox(try await call.object(), for: caller)
        do {
            try await database.sandboxes.insert(new, by: caller.actor)
        } catch let error as PostgresError where error.constraint == "sandbox_name_is_unique" {
            let name = (new.name ?? "").shortened
            throw APIError.conflict(
                "a sandbox with the name '\(name)' exists already. Choose another name, or delete that one"
            )
        }
        guard let made = try await database.sandboxes.find(new.id, in: caller.organization) else {
            throw APIError.conflict("the sandbox was deleted while it was made")
        }
        // Clients follow a build's log only if they are answered before it begins, so they are, whoever was quicker.
        if made.state == .pendingBuild || made.state == .buildingSnapshot {
            var wire = SandboxWire(made, toolboxProxyURL: configuration.toolboxProxyURL)
            wire.state = PublicState.pendingBuild.rawValue
            return try .json(wire)
        }
        let held = try await sandboxes.hold(made, for: caller, atMost: sandboxes.limits.createHold) {
            $0.isSettledStarting
        }
        return try answer(held)
    }

    private func newSandbox(_ body: [String: JSONValue], for caller: Caller) async throws -> NewSandbox {
        guard let organization = try await database.organizations.find(caller.organization) else {
            throw APIError.notFound("the key's organization is gone")
        }
        let wanted = try CreateSandboxWire(body, for: organization)
        let region = try await region(wanted.target, for: organization)
        let volumes = try await volumes(wanted.volumes, for: caller)
        let snapshot =
            if let source = wanted.source {
                try await image(source, in: region, for: caller.organization)
            } else {
                try await snapshot(wanted.snapshot, for: caller.organization)
            }
        try await judgeGPUs(wanted, in: region)
        var new = NewSandbox(
            organizationID: caller.organization,
            regionID: region,
            snapshot: snapshot,
            name: wanted.name
        )
        new.volumes = volumes
        wanted.apply(to: &new, of: organization)
        return new
    }

    private func region(_ target: String?, for organization: OrganizationRecord) async throws -> String {
        let regions = try await database.regions.list(for: organization.id)
        if let target {
            guard let region = regions.first(where: { $0.id == target || $0.name == target }) else {
                let known = regions.map(\.id).joined(separator: ", ")
                throw APIError.notFound("target is '\(target.shortened)', but the regions are: \(known)")
            }
            return region.id
        }
        let preferred = [organization.defaultRegionID, configuration.defaultRegion].compactMap { $0 }
        let chosen = preferred.first { id in regions.contains { $0.id == id } } ?? regions.first?.id
        guard let chosen else {
            throw APIError.notFound("there is no region yet. An operator makes one with: martlet bootstrap")
        }
        return chosen
    }

    private func snapshot(_ name: String?, for organization: OrganizationID) async throws -> SnapshotRecord {
        let wanted = name ?? configuration.defaultSnapshot
        guard let snapshot = try await database.snapshots.find(wanted, for: organization) else {
            throw APIError.badRequest(
                "snapshot '\(wanted.shortened)' does not exist. GET /snapshots lists those that do"
            )
        }
        guard snapshot.isActive else {
            let why = snapshot.errorReason.map { ": \($0)" } ?? ""
            throw APIError.badRequest("snapshot '\(snapshot.name)' is \(snapshot.state.rawValue), not active\(why)")
        }
        return snapshot
    }

    /// Those that were named, by their ids. Whether they are ready is asked once more, under a lock, by the insert.
    private func volumes(_ wanted: [VolumeMountWire], for caller: Caller) async throws -> [SandboxVolume] {
        var volumes: [SandboxVolume] = []
        for mount in wanted {
            guard let found = try await database.volumes.find(mount.volume, in: caller.organization) else {
                throw APIError.badRequest(
                    "volume '\(mount.volume.shortened)' does not exist. GET /volumes lists those that do"
                )
            }
            guard found.state == .ready else {
                throw APIError.badRequest(
                    "volume '\(found.name)' is \(found.state.rawValue), not ready. Wait until GET /volumes/\(found.id) says ready"
                )
            }
            volumes.append(SandboxVolume(volumeId: found.id, mountPath: mount.mountPath, subpath: mount.subpath))
        }
        return volumes
    }

    /// The hidden snapshot of an image or a build. It need not be there yet: the sandbox waits for it.
    private func image(_ source: ImageSource, in region: String, for organization: OrganizationID) async throws
        -> SnapshotRecord
    {
        try await source.admit(by: RegistryGate(database: database))
        return try await translatingErrors {
            if let image = source.plainImage {
                try await database.builds.requestImage(image, in: region, of: organization)
            } else {
                try await database.builds.requestBuild(source.definition, in: region, of: organization)
            }
        }
    }

    /// Without such a GPU in the region the sandbox would wait for ever.
    private func judgeGPUs(_ wanted: CreateSandboxWire, in region: String) async throws {
        guard let gpu = wanted.gpu, gpu > 0 else { return }
        let types = try await database.regions.gpuTypes(in: region)
        if types.isEmpty { throw APIError.badRequest("gpu is \(gpu), but no runner of region \(region) has a GPU") }
        if !wanted.gpuTypes.isEmpty, Set(types).isDisjoint(with: wanted.gpuTypes) {
            let asked = wanted.gpuTypes.joined(separator: ", ")
            throw APIError.badRequest("gpuType is \(asked), but region \(region) has \(types.joined(separator: ", "))")
        }
    }

    private func list(_ call: Call) async throws -> Response {
        let wanted = try SandboxListWire(call.query, for: try call.caller.organization)
        let page = try await database.sandboxes.list(wanted.filter, after: wanted.cursor, limit: wanted.limit)
        let items = page.items.map { SandboxWire($0, toolboxProxyURL: configuration.toolboxProxyURL).asListItem }
        return try .json(SandboxPageWire(items: items, nextCursor: try page.next?.wireText()))
    }
}

extension CreateSandboxWire {
    /// Fills in what was asked for; what was not stays the snapshot's or the default.
    fileprivate func apply(to new: inout NewSandbox, of organization: OrganizationRecord) {
        new.osUser = user
        new.env = env
        new.labels = labels
        new.isPublic = isPublic
        new.cpu = size.cpu ?? new.cpu
        new.memoryGib = size.memoryGib ?? new.memoryGib
        new.diskGib = size.diskGib ?? new.diskGib
        new.gpu = gpu ?? new.gpu
        if !gpuTypes.isEmpty { new.gpuTypes = gpuTypes }
        new.networkAllowList = networkAllowList
        new.networkBlockAll = networkBlockAll ?? (organization.blocksNetworkByDefault && networkAllowList == nil)
        new.autoStopMinutes = autoStopMinutes ?? new.autoStopMinutes
        new.autoArchiveMinutes = SandboxRules.effectiveAutoArchive(autoArchiveMinutes ?? new.autoArchiveMinutes)
        new.autoDeleteMinutes = autoDeleteMinutes.map { max($0, -1) } ?? new.autoDeleteMinutes
        new.ttlMinutes = ttlMinutes == 0 ? nil : ttlMinutes
        new.queueTimeoutMinutes = queueTimeoutMinutes
        new.recordsTerminals = recordsTerminals ?? organization.recordsTerminalsByDefault
    }
}

extension SandboxRules {
    /// 0 means the longest.
    static func effectiveAutoArchive(_ minutes: Int) -> Int { minutes == 0 ? autoArchiveMinutesLimit : minutes }
}
