package import Domain

/// Names and labels by which a runner knows its containers again.
package enum ContainerName {
    /// One name for each sandbox and epoch, so that a second create collides instead of making a second container.
    package static func of(_ sandbox: SandboxID, epoch: Int64) -> String { "mrt-\(sandbox)-e\(epoch)" }
}

package enum ContainerLabel {
    package static let sandbox = "martlet.sandbox"
    package static let runner = "martlet.runner"
    package static let epoch = "martlet.epoch"
    package static let slot = "martlet.slot"
    /// The image as the user named it; the container itself is bound to the image's id.
    package static let image = "martlet.image"
    /// Hash of the specification.
    package static let shape = "martlet.shape"
    /// Hash of the daemon that is mounted.
    package static let daemon = "martlet.daemon"
    /// Folders that its image is to have.
    package static let folders = "martlet.folders"
    /// On networks.
    package static let bridge = "martlet.bridge"
    /// On networks of builds: which of the runner's.
    package static let builds = "martlet.builds"
}

/// Whose a container is, by its labels. Nil labels mean that it is not of Martlet's making.
package struct ContainerOwner: Sendable, Hashable {
    package var sandbox: SandboxID
    package var runner: RunnerID
    package var epoch: Int64
    package var slot: Int

    package init(sandbox: SandboxID, runner: RunnerID, epoch: Int64, slot: Int) {
        self.sandbox = sandbox
        self.runner = runner
        self.epoch = epoch
        self.slot = slot
    }

    /// Nil unless every label is there and canonical.
    package init?(labels: [String: String]) {
        guard let sandbox = labels[ContainerLabel.sandbox].flatMap({ SandboxID($0) }),
            let runner = labels[ContainerLabel.runner].flatMap({ RunnerID($0) }),
            let epoch = labels[ContainerLabel.epoch].flatMap({ Int64($0) }),
            let slot = labels[ContainerLabel.slot].flatMap({ Int($0) })
        else { return nil }
        self.init(sandbox: sandbox, runner: runner, epoch: epoch, slot: slot)
    }

    package var labels: [String: String] {
        [
            ContainerLabel.sandbox: "\(sandbox)", ContainerLabel.runner: "\(runner)", ContainerLabel.epoch: "\(epoch)",
            ContainerLabel.slot: "\(slot)",
        ]
    }
}
