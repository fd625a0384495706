import Docker
import Domain
import Logging
import Store

/// The image that a sandbox starts from.
extension SandboxApplier {
    func ensureImage(_ desired: AssignedSandbox) async throws -> Findings {
        do {
            return Findings(image: try await parts.engine.inspectImage(try reference(of: desired.image)))
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
