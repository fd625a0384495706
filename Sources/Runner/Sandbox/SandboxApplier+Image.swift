import Docker
import Domain
import Logging
import NIOPosix
import Store

/// The image that a sandbox starts from.
extension SandboxApplier {
    func ensureImage(_ desired: AssignedSandbox) async throws -> Findings {
        let image: ImageInspection
        do {
            image = try await parts.engine.inspectImage(try reference(of: desired.image))
        } catch let error as DockerError where error.kind == .notFound {
            guard !desired.image.hasPrefix("sha256:") else {
                throw RunnerError(
                    .noImage,
                    "the image \(desired.image) is not on this host, and an image id cannot be pulled; use a name with a registry"
                )
            }
            try await fetch(desired)
            try await reportPulling(desired)
            throw PullUnderway()
        }
        return try await withoutVolumes(image)
    }

    /// What a container is made of, so that the engine keeps none of its files in volumes.
    private func withoutVolumes(_ image: ImageInspection) async throws -> Findings {
        guard !image.volumes.isEmpty else { return Findings(image: image) }
        let folders = try ImageFolders(image.volumes)
        guard let twin = try await PlainImages(parts).twin(of: image) else {
            parts.logger.warning(
                "the volumes that an image declares are left to the engine, whose way of keeping images is not known",
                metadata: ["image.id": "\(image.id)", "image.volumes": "\(image.volumes)"]
            )
            return Findings(image: image)
        }
        return Findings(image: twin, folders: folders)
    }

    /// What the engine adds to an image's files before anything runs.
    private static let marginBytes: Int64 = 1 << 20

    /// Throws where the image leaves no room on the sandbox's disk. The engine would not say so, and leave a layer behind at each
    /// try.
    func judgeRoom(for image: ImageInspection, _ desired: AssignedSandbox) async throws {
        let host = parts.blueprint.host
        guard host.diskNote == nil else { return }
        let known = try? await NIOThreadPool.singleton.runIfActive {
            try LayerStore(driver: host.engine.storageDriver, dataRoot: host.dataRoot).quotaBytes(ofImage: image.id)
        }
        guard let bytes = known, bytes + Self.marginBytes > parts.blueprint.wantedDiskBytes(of: desired) else { return }
        let needed = (bytes + Self.marginBytes) >> 30 + 1
        let advice = "resize its disk to \(needed) GiB or more, upon which it is started"
        throw RunnerError(
            .imageTooLarge,
            "the image \(desired.image) has \(bytes >> 20) MiB, which leaves no room on the sandbox's disk of \(desired.diskGib) GiB: \(advice)"
        )
    }

    /// As the engine knows the image.
    private func reference(of image: String) throws -> String {
        guard let made = InternalImage(image) else { return image }
        guard let registry = parts.registry else {
            throw RunnerError(
                .misconfigured,
                "the image is in Martlet's registry, and this runner has none: set MARTLET_REGISTRY_URL (the operator), and recover it"
            )
        }
        return registry.reference(of: made)
    }

    private func fetch(_ desired: AssignedSandbox) async throws {
        do {
            try parts.puller.fetch(desired.image, for: desired.id)
        } catch let error as DockerError {
            if let made = InternalImage(desired.image) { throw try await loss(of: made, desired, error) }
            guard [.notFound, .badRequest, .unauthorized].contains(error.kind) else { throw error }
            throw RunnerError(
                .noImage,
                "the image \(desired.image) is not on this host and cannot be pulled: \(error.message); correct its name, or log in to its registry"
            )
        }
    }

    /// What to throw where an image of the internal registry could not be pulled. One that is gone there is made anew.
    private func loss(of image: InternalImage, _ desired: AssignedSandbox, _ error: DockerError) async throws
        -> any Error
    {
        switch judgePull(error) {
        case .failed: return error
        case .registryAway:
            return RunnerError(.registryAway, "Martlet's registry does not give the image \(image): \(error.message)")
        case .lost:
            let snapshots = try await parts.queries.reportLost(image)
            parts.logger.error(
                "an image is gone from the registry",
                metadata: ["image.name": "\(image)", "snapshot.count": "\(snapshots)", "error": "\(error)"]
            )
            return imageLost(image, isBackup: desired.isRestored, snapshots: snapshots)
        }
    }

    private func reportPulling(_ desired: AssignedSandbox) async throws {
        guard desired.reported.state != .pullingSnapshot else { return }
        if !desired.reported.state.mayBecome(.pullingSnapshot) {
            try await report(
                SandboxReport(desired.reported.state.mayBecome(.creating) ? .creating : .starting),
                desired
            )
        }
        try await report(SandboxReport(.pullingSnapshot), desired)
    }
}
