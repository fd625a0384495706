import Docker
import Logging
import Store

/// Removes what outlived its use and has no key of its own: old copies of the daemon, networks of former settings, and addresses
/// that the engine keeps for nobody.
/// Containers and rules are the survey's.
package struct GarbageCollector: Sendable {
    static let interval: Duration = .seconds(600)

    private let parts: RunnerParts
    private let directory: StateDirectory

    package init(parts: RunnerParts, directory: StateDirectory) {
        self.parts = parts
        self.directory = directory
    }

    /// Collects now and then until its task is cancelled.
    package func run() async {
        while (try? await Task.sleep(for: Self.interval)) != nil {
            do {
                try await collectOnce()
            } catch {
                if !Task.isCancelled {
                    parts.logger.warning("garbage could not be collected", metadata: ["error": "\(error)"])
                }
            }
        }
    }

    /// One turn.
    package func collectOnce() async throws {
        let mine: [String: String?] = [ContainerLabel.runner: "\(parts.identity)"]
        let containers = try await parts.engine.listContainers(labels: mine)
        let used = Set(containers.compactMap { $0.labels[ContainerLabel.daemon] })
        for hash in try directory.removeDaemons(except: used.union([parts.blueprint.daemon.hash])) {
            parts.logger.info("an unused copy of the daemon is removed", metadata: ["daemon.hash": "\(hash)"])
        }
        try await parts.network.releaseStaleEndpoints {
            Set(try await parts.queries.sandboxes().map { ContainerName.of($0.id, epoch: $0.epoch) })
        }
        // Networks of builds come and go with those.
        for network in try await parts.engine.listNetworks(labels: mine)
        where network.name != parts.network.name && network.labels[ContainerLabel.builds] == nil {
            try await removeUnused(network)
        }
    }

    private func removeUnused(_ network: NetworkInspection) async throws {
        do {
            try await parts.engine.removeNetwork(network.id)
            parts.logger.info("an unused network is removed", metadata: ["network.name": "\(network.name)"])
        } catch let error as DockerError where error.status == 403 || error.kind == .conflict || error.kind == .notFound
        {
            // In use by containers of the former setting; they go first.
        }
    }
}
