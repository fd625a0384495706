package import Domain
import Logging
package import Reconciling
import Postgres
import Store

/// Brings one volume on this host to what the rows ask for. Everything is read anew in each pass.
package struct VolumeReconciler: Sendable {
    let parts: RunnerParts
    let host: VolumeHost
    /// Wakes a sandbox that waited for the volume.
    let wake: @Sendable (SandboxID) -> Void

    package init(_ parts: RunnerParts, host: VolumeHost, wake: @escaping @Sendable (SandboxID) -> Void) {
        self.parts = parts
        self.host = host
        self.wake = wake
    }

    private static let uploadPause: Duration = .seconds(3)

    package func reconcile(_ volume: VolumeID) async throws -> Outcome {
        let desired = try await desired(volume)
        let plan = planVolume(desired: desired, observed: try await host.observe(volume))
        do {
            for action in plan.actions { try await perform(action, volume) }
        } catch is UploadsUnderway {
            if desired.reported != .flushing { try await parts.queries.reportMount(of: volume, .flushing) }
            return .recheck(after: Self.uploadPause)
        } catch {
            try await note(error, volume, desired)
            throw error
        }
        if desired.demand == .used { parts.volumeDesk.settle(volume).forEach(wake) }
        return plan.recheck.map { .recheck(after: $0) } ?? .settled
    }

    /// Who waits is told; the row says it for the operator. What is retried anyway needs no other fate.
    private func note(_ error: any Error, _ volume: VolumeID, _ desired: VolumeDesired) async throws {
        if error is CancellationError || error is PostgresError || Task.isCancelled { return }
        let reason = (error as? RunnerError)?.message ?? "\(error)"
        parts.volumeDesk.settle(volume, trouble: reason).forEach(wake)
        guard desired.demand != .gone else { return }
        try await parts.queries.reportMount(of: volume, .error, problem: String(reason.prefix(Self.problemLimit)))
    }

    private static let problemLimit = 2000

    // MARK: - Rows

    private func desired(_ volume: VolumeID) async throws -> VolumeDesired {
        let reported = try await parts.queries.mounts().first { $0.volume == volume }
        guard try await parts.queries.wish(of: volume) == .ready else {
            var desired = VolumeDesired(.gone)
            desired.reported = reported?.state
            return desired
        }
        let users = try await parts.queries.volumeUsers()
        return Self.desired(
            volume,
            users: users,
            reported: reported,
            isAwaited: parts.volumeDesk.isWanted(volume),
            grace: parts.pace.volumeGrace
        )
    }

    /// Of a volume that there is, as the rows tell. Pure.
    static func desired(
        _ volume: VolumeID,
        users: [VolumeUser],
        reported: ReportedMount?,
        isAwaited: Bool,
        grace: Duration
    ) -> VolumeDesired {
        let views = users.flatMap { user in user.views(of: volume).map { (user: user, view: $0) } }
        let needing = views.filter { $0.user.mayRun }
        var desired = VolumeDesired(
            needing.isEmpty && !isAwaited ? .unused(rest: reported.flatMap { $0.rest(of: grace) }) : .used
        )
        // What is to be destroyed may be gone by now, and its slots with it.
        desired.shown = views.filter { $0.user.reported == .started && $0.user.desired != .destroyed }.map(\.view)
        desired.allowed = Set(needing.map(\.view.slot))
        desired.reported = reported?.state
        return desired
    }

    // MARK: - Acts

    private func perform(_ action: VolumeAction, _ volume: VolumeID) async throws {
        try await FaultPoint.hit("before-volume-\(action.name)")
        switch action {
        case .report(let state): try await parts.queries.reportMount(of: volume, state)
        case .hide(let slots): try await host.hide(slots)
        case .clearMount: try await host.clearMount(of: volume)
        case .mount: try await host.mount(volume)
        case .show(let views): for view in views { try await show(view, volume) }
        case .unmount: try await host.unmount(volume)
        case .removeFolder(let evenUnsaved): try await host.removeFolder(of: volume, evenUnsaved: evenUnsaved)
        case .purge: try await host.rclone.purge(volume)
        case .forget: try await parts.queries.forgetMount(of: volume)
        }
        try await FaultPoint.hit("after-volume-\(action.name)")
    }

    /// In a container that runs. What keeps one from it (a link where its subpath was) keeps no other; each survey tries again.
    private func show(_ view: VolumeView, _ volume: VolumeID) async throws {
        do {
            try await host.show(view, of: volume)
        } catch let error as RunnerError where error.code == .volume {
            parts.logger.warning(
                "a sandbox cannot see its volume",
                metadata: [
                    "sandbox.id": "\(view.slot.sandbox)", "volume.id": "\(volume)", "error": "\(error.message)",
                ]
            )
        }
    }
}

extension VolumeAction {
    /// Names its fault points.
    fileprivate var name: String {
        switch self {
        case .report(let state): "report-\(state.rawValue)"
        case .hide: "hide"
        case .clearMount: "clear-mount"
        case .mount: "mount"
        case .show: "show"
        case .unmount: "unmount"
        case .removeFolder: "remove-folder"
        case .purge: "purge"
        case .forget: "forget"
        }
    }
}

extension VolumeUser {
    /// What of a volume it shows, and where.
    func views(of volume: VolumeID) -> [VolumeView] {
        volumes.enumerated().filter { $1.volumeId == volume }.map { index, mount in
            VolumeView(
                slot: VolumeSlot(sandbox: sandbox, epoch: epoch, index: index),
                subpath: mount.subpath
            )
        }
    }

    /// Its container runs, may run, or is about to.
    var mayRun: Bool {
        switch reported {
        case .started, .starting, .stopping, .resizing: true
        case .creating, .pullingSnapshot, .stopped: desired == .started
        case .error, .destroying: false
        }
    }
}

extension ReportedMount {
    /// How long a mount that nobody uses is kept from now on; nil where it was not written down yet that nobody does.
    func rest(of grace: Duration) -> Duration? {
        switch state {
        case .idle: max(grace - age, .zero)
        case .flushing: .zero
        case .mounting, .mounted, .error: nil
        }
    }
}
