import Docker
import Domain
import Firewall
import Synchronization

/// The network of one build at a time: a bridge of its own, with the floor that every sandbox has. What a Dockerfile runs is
/// user code; it must reach no sandbox, no other build, not the host and no metadata service.
///
/// The bridge stands only while a build is on it. Rules are there before it has a member, and leave after it.
struct BuildNetwork: Sendable {
    private let engine: DockerEngine
    private let kernel: KernelFirewall
    private let host: HostFirewall
    private let runner: RunnerID
    /// Which of the networks that this runner may have at a time.
    private let number: Int
    let name: String

    init(_ parts: RunnerParts, number: Int) {
        engine = parts.engine
        kernel = parts.kernel
        host = parts.firewall.host
        runner = parts.identity
        self.number = number
        name = "\(parts.network.name.prefix(RunnerConfiguration.bridgeNameLimit - 2))b\(number)"
    }

    /// Most networks a runner may have, and so builds at a time: their chains have a letter each.
    static let countLimit = letters.count
    private static let letters = Array("uvwxyz")

    /// Another than the sandboxes' chains have, and than those of any other runner: no runner's has such a letter.
    private var tag: String { "\(RunnerParts.firewallTag(of: runner).dropLast())\(Self.letters[number])" }

    /// Makes it, guards it, and removes it when `body` has ended, with whatever is left on it.
    func standing<Value: Sendable>(_ body: () async throws -> Value) async throws -> Value {
        try await remove()
        let result: Result<Value, any Error>
        do {
            try await make()
            result = .success(try await body())
        } catch {
            result = .failure(error)
        }
        // Also when cancelled: nothing may be left that the next build would meet.
        let removal = Task { try await remove() }
        try await removal.value
        return try result.get()
    }

    private func make() async throws {
        let specification = NetworkSpecification(
            name: name,
            bridgeName: name,
            labels: [ContainerLabel.runner: "\(runner)", ContainerLabel.builds: "\(number)"]
        )
        _ = try await engine.createNetwork(specification)
        guard let subnet = try await engine.inspectNetwork(name).subnets.first?.subnet else {
            throw RunnerError(.misconfigured, "the engine gave the network \(name) no addresses")
        }
        try await kernel.requireBridgeFiltering()
        let addresses = try IPv4Range(parsing: subnet)
        let guarded = try host.guarding(bridge: name, subnet: addresses, tag: tag)
        let members = SandboxFirewall(slot: 0, network: "builds", addresses: addresses, egress: .open)
        _ = try await kernel.converge(host: guarded, sandboxes: [members])
    }

    /// Idempotent. Also what a runner that was killed has left.
    func remove() async throws {
        do {
            for container in try await engine.listContainers(network: name) { try await removeContainer(container.id) }
            try await engine.removeNetwork(name)
        } catch let error as DockerError where error.kind == .notFound {
        }
        try await kernel.remove(tag: try ChainTag(tag))
    }

    private func removeContainer(_ id: String) async throws {
        do {
            try await engine.removeContainer(id, force: true)
        } catch let error as DockerError where error.kind == .notFound || error.kind == .conflict {
            // The engine is at it itself.
        }
    }

    /// What is on it now: the step of the build that runs.
    func members() async throws -> [String] { try await engine.listContainers(network: name).map(\.id) }
}

/// Which networks are taken.
final class BuildNetworkNumbers: Sendable {
    private struct Numbers {
        var taken: Set<Int> = []
        /// Of bridges that the engine kept without a network when they were last asked for. They are taken last, since it forgets
        /// them only when it is started anew.
        var withStaleBridge: Set<Int> = []

        mutating func take() -> Int? {
            let free = (0..<BuildNetwork.countLimit).filter { !taken.contains($0) }
            guard let number = free.first(where: { !withStaleBridge.contains($0) }) ?? free.first else { return nil }
            taken.insert(number)
            return number
        }

        mutating func giveBack(_ number: Int, hasStaleBridge: Bool) {
            taken.remove(number)
            if hasStaleBridge { withStaleBridge.insert(number) } else { withStaleBridge.remove(number) }
        }
    }

    private let numbers = Mutex(Numbers())

    /// Runs `body` with a number that nobody else has. Throws where all are taken, which the number of workers precludes.
    func withNumber<Value>(_ body: (Int) async throws -> Value) async throws -> Value {
        guard let number = numbers.withLock({ $0.take() }) else {
            throw RunnerError(
                .changedMeanwhile,
                "all \(BuildNetwork.countLimit) build networks are in use; it is tried again"
            )
        }
        do {
            let value = try await body(number)
            numbers.withLock { $0.giveBack(number, hasStaleBridge: false) }
            return value
        } catch {
            let hasStaleBridge = (error as? DockerError)?.tellsOfStaleBridge ?? false
            numbers.withLock { $0.giveBack(number, hasStaleBridge: hasStaleBridge) }
            throw error
        }
    }
}

extension DockerError {
    /// The engine has forgotten a network, but not its bridge, until it is started anew: its disk was full when it made it.
    fileprivate var tellsOfStaleBridge: Bool { message.contains("networks have same bridge name") }
}
