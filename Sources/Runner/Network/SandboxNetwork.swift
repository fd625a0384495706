package import Docker
package import Domain
import Firewall
package import Logging

/// The network that all sandboxes of this runner are on: a bridge of our own, without traffic between its members.
package struct SandboxNetwork: Sendable {
    package let name: String
    private let engine: DockerEngine
    private let addresses: AddressPlan
    private let runner: RunnerID
    private let logger: Logger

    package init(name: String, engine: DockerEngine, addresses: AddressPlan, runner: RunnerID, logger: Logger) {
        self.name = name
        self.engine = engine
        self.addresses = addresses
        self.runner = runner
        self.logger = logger
    }

    /// The network is there, as it should be. Throws `misconfigured` where one of that name is another's, or of another subnet
    /// and in use.
    package func ensure() async throws {
        do {
            let found = try await engine.inspectNetwork(name)
            if isWanted(found) { return }
            try await replace(found)
        } catch let error as DockerError where error.kind == .notFound {
            try await create()
        }
    }

    /// Lets go of the network's ends, with their addresses, that containers have left which are gone and never come again: an
    /// engine whose disk is full when one starts forgets what it did, and keeps these until it is started anew or told so.
    ///
    /// - Parameter placed: asked after the network. What is placed here may be made, under its name, at this very moment.
    package func releaseStaleEndpoints(except placed: () async throws -> Set<String>) async throws {
        let stale = try await endpointsWithoutContainer()
        guard !stale.isEmpty else { return }
        for name in stale.subtracting(try await placed()) { try await releaseStaleEndpoint(of: name) }
    }

    /// The same for one container. The caller keeps it from being made meanwhile.
    package func releaseStaleEndpoint(of container: String) async throws {
        // That of a container that exists may be on its way into it.
        guard try await endpointsWithoutContainer().contains(container), try await !exists(container) else { return }
        try await engine.forgetEndpoint(of: container, in: name)
        logger.notice(
            "an address of a container that is gone is free again",
            metadata: ["container.name": "\(container)"]
        )
    }

    private func endpointsWithoutContainer() async throws -> Set<String> {
        let members = try await engine.inspectNetwork(name).containers
        return Set(members.filter { $0.key.hasPrefix("ep-") }.map(\.value.name))
    }

    private func exists(_ container: String) async throws -> Bool {
        do {
            _ = try await engine.inspectContainer(container)
            return true
        } catch let error as DockerError where error.kind == .notFound {
            return false
        }
    }

    private var wanted: NetworkSpecification {
        NetworkSpecification(
            name: name,
            bridgeName: name,
            subnet: "\(addresses.subnet)",
            gateway: "\(addresses.gateway)",
            labels: [ContainerLabel.runner: "\(runner)", ContainerLabel.bridge: name],
            allowsInterContainerTraffic: false
        )
    }

    private func isWanted(_ found: NetworkInspection) -> Bool {
        found.driver == "bridge" && found.bridgeName == name && !found.isIPv6Enabled
            && found.labels[ContainerLabel.runner] == "\(runner)"
            && found.subnets.map(\.subnet) == ["\(addresses.subnet)"]
            && found.options["com.docker.network.bridge.enable_icc"] == "false"
    }

    private func replace(_ found: NetworkInspection) async throws {
        guard found.labels[ContainerLabel.runner] == "\(runner)" else {
            throw RunnerError(
                .misconfigured,
                "the Docker network \(name) exists and is not of this runner; remove it, or give the runner another bridge name"
            )
        }
        guard found.containers.isEmpty else {
            throw RunnerError(
                .misconfigured,
                "the Docker network \(name) has subnet \(found.subnets.map(\.subnet).joined(separator: ",")) and \(found.containers.count) "
                    + "running sandboxes, but \(addresses.subnet) is configured; restore the old subnet, or stop the sandboxes first"
            )
        }
        logger.notice(
            "network is made anew",
            metadata: ["network.name": "\(name)", "network.subnet": "\(addresses.subnet)"]
        )
        try await engine.removeNetwork(found.id)
        try await create()
    }

    private func create() async throws {
        do {
            _ = try await engine.createNetwork(wanted)
        } catch let error as DockerError where error.kind == .conflict {
            // Two passes at once: the other one made it. The next look tells whether it is as it should be.
        }
    }
}
