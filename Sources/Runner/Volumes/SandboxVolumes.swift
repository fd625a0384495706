import Domain
import Logging
import Store

/// What a pass of a sandbox does about its volumes.
struct SandboxVolumes: Sendable {
    let parts: RunnerParts

    /// The volumes are mounted on the host, and the slots of the container are there and empty. Throws ``MountUnderway`` while
    /// a mount is waited for.
    func prepare(_ desired: AssignedSandbox) async throws {
        guard !desired.volumes.isEmpty else { return }
        let host = try self.host(desired)
        try await requireMounts(desired, host)
        try await host.prepareSlots(desired.slots)
        for (slot, volume) in zip(desired.slots, desired.volumes) {
            await freshen(VolumeView(slot: slot, subpath: volume.subpath), of: volume.volumeId, host)
        }
    }

    /// Without it, what was just written is seen some seconds later: no reason to fail.
    private func freshen(_ view: VolumeView, of volume: VolumeID, _ host: VolumeHost) async {
        do {
            try await host.freshen(view, of: volume)
        } catch {
            parts.logger.warning(
                "a volume may show older files for a few seconds",
                metadata: ["sandbox.id": "\(view.slot.sandbox)", "volume.id": "\(volume)", "error": "\(error)"]
            )
        }
    }

    /// The volumes are seen in the container, which runs; nothing of the user's runs in it before.
    func show(_ desired: AssignedSandbox, to process: Int) async throws {
        guard !desired.volumes.isEmpty else { return }
        let host = try self.host(desired)
        try await requireMounts(desired, host)
        for (slot, volume) in zip(desired.slots, desired.volumes) {
            try await host.show(VolumeView(slot: slot, subpath: volume.subpath), of: volume.volumeId)
            guard try await host.isShown(volume.volumeId, at: volume.mountPath, to: process) else {
                throw RunnerError(
                    .volume,
                    "the volume does not appear at \(volume.mountPath) in the container: engine and runner do not see the same "
                        + "mounts; run the runner outside of a mount namespace of its own (systemd: no PrivateTmp, no ProtectHome)"
                )
            }
        }
    }

    /// No container shows them any more.
    func hide(_ desired: AssignedSandbox, removing: Bool) async throws {
        guard !desired.volumes.isEmpty, let host = parts.volumes else { return }
        if removing {
            try await host.removeSlots(Set(desired.slots))
        } else {
            try await host.hide(Set(desired.slots))
        }
        parts.volumeDesk.forget(desired.id)
        for volume in Set(desired.volumes.map(\.volumeId)) { parts.volumeDesk.look(at: volume) }
    }

    private func host(_ desired: AssignedSandbox) throws -> VolumeHost {
        guard let host = parts.volumes else {
            throw RunnerError(
                .misconfigured,
                "the sandbox mounts volumes, but its runner has no S3 for them; set MARTLET_S3_ENDPOINT and its kin there"
            )
        }
        return host
    }

    private func requireMounts(_ desired: AssignedSandbox, _ host: VolumeHost) async throws {
        var isComplete = true
        for volume in Set(desired.volumes.map(\.volumeId)) where try await !host.isMounted(volume) {
            isComplete = false
            try parts.volumeDesk.want(volume, for: desired.id)
        }
        if !isComplete { throw MountUnderway() }
    }
}

extension AssignedSandbox {
    /// One for each of its volumes, in their order.
    package var slots: [VolumeSlot] { volumes.indices.map { VolumeSlot(sandbox: id, epoch: epoch, index: $0) } }
}

/// A volume is being mounted; its pass wakes the sandbox. The patience is for the case that it cannot.
struct MountUnderway: Error {
    let patience: Duration = .seconds(15)
}
