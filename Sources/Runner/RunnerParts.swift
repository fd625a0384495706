package import Docker
package import Domain
package import Firewall
package import Logging
package import Store
import NIOCore
import NIOPosix

/// What the reconcilers of one runner share.
package struct RunnerParts: Sendable {
    package let identity: RunnerID
    package let queries: RunnerQueries
    package let engine: DockerEngine
    package let blueprint: ContainerBlueprint
    package let pace: RunnerPace
    package let logger: Logger
    package let network: SandboxNetwork
    package let kernel: KernelFirewall
    package let firewall: FirewallKeeper
    package let table: ContainerTable
    package let crashes: CrashLedger
    package let attempts: AttemptLedger
    package let limits: LimitWatch
    package let holdings: HoldingLedger
    package let puller: ImagePuller
    package let shelf: ImageShelf
    /// nil where this host mounts no volumes.
    package let volumes: VolumeHost?
    package let volumeDesk = VolumeDesk()
    package let loans: ImageLoans
    package let room = RoomCall()
    package let pauses: PauseLedger
    /// Where the runner keeps what is its own.
    let stateDirectory: String
    /// Martlet's own registry; nil where this runner has none.
    package let registry: RegistryAccess?
    /// Opens what organizations have sealed; nil where this runner has no key.
    package let secrets: SecretBox?
    let probe: DaemonProbe
    private let start: ContinuousClock.Instant

    package init(
        queries: RunnerQueries,
        engine: DockerEngine,
        kernel: KernelFirewall,
        blueprint: ContainerBlueprint,
        configuration: RunnerConfiguration,
        table: ContainerTable,
        logger: Logger
    ) throws {
        identity = blueprint.runner
        self.queries = queries
        self.engine = engine
        self.blueprint = blueprint
        self.logger = logger
        self.table = table
        pace = configuration.pace
        network = SandboxNetwork(
            name: blueprint.network,
            engine: engine,
            addresses: blueprint.addresses,
            runner: identity,
            logger: logger
        )
        self.kernel = kernel
        firewall = FirewallKeeper(kernel: kernel, host: try Self.hostFirewall(configuration, blueprint), logger: logger)
        crashes = CrashLedger()
        attempts = AttemptLedger()
        limits = LimitWatch(quotas: blueprint.host.quotas)
        holdings = HoldingLedger(grace: pace.orphanGrace)
        registry = configuration.registry
        secrets = configuration.secrets
        puller = ImagePuller(
            engine: engine,
            registry: registry,
            queries: queries,
            runner: identity,
            limit: pace.pullLimit,
            concurrency: pace.pullsLimit,
            logger: logger
        )
        shelf = ImageShelf(engine: engine, registry: registry, queries: queries, runner: identity)
        loans = ImageLoans(engine: engine, queries: queries, runner: identity, logger: logger)
        pauses = PauseLedger()
        stateDirectory = configuration.stateDirectory
        volumes = configuration.volumes.map { storage in
            VolumeHost(storage, folders: VolumeFolders(root: configuration.volumesFolder), logger: logger)
        }
        probe = DaemonProbe(
            dialer: NamespaceDialer(threads: Self.probeThreads),
            group: MultiThreadedEventLoopGroup.singleton
        )
        start = .now
    }

    private static let probeThreads = 2

    private static func hostFirewall(_ configuration: RunnerConfiguration, _ blueprint: ContainerBlueprint) throws
        -> HostFirewall
    {
        try HostFirewall(
            tag: firewallTag(of: blueprint.runner),
            bridge: blueprint.network,
            subnet: configuration.subnet,
            resolvers: blueprint.host.resolvers,
            allowedPrivateRanges: configuration.allowedPrivateRanges,
            allowsSMTP: configuration.allowsSMTP
        )
    }

    /// Names the runner's chains: the same after each restart, another for each runner of a host.
    package static func firewallTag(of runner: RunnerID) -> String { String("\(runner)".prefix(8)) }

    /// Time since the start of the runner, by a clock that does not jump.
    package func now() -> Duration { ContinuousClock.now - start }

    /// Nothing of the sandbox is left here.
    package func forget(_ id: SandboxID) {
        holdings.forget(id)
        crashes.forget(id)
        attempts.forget(id)
        puller.forget(id)
        volumeDesk.forget(id)
    }

    /// The disk quota in force on a container; nil for none. Where it cannot be read it is that of the container's making.
    func diskBytes(of container: ContainerInspection) async -> Int64? {
        guard let quotas = blueprint.host.quotas else { return container.limits.diskQuotaBytes }
        let found = try? await NIOThreadPool.singleton.runIfActive { quotas.quota(of: container.id) }
        return found?.limitBytes ?? container.limits.diskQuotaBytes
    }

    /// Throws what an engine without room would, or worse: one that finds no room half-way through remembers networks and addresses
    /// that it has not, until it is started anew.
    func requireRoom(to act: String) async throws {
        guard let usage = await usageWithoutRoom() else { return }
        throw DockerError(
            operation: act,
            kind: .noSpace,
            message:
                "\(usage.freeBytes >> 20) MiB are free, and \(pace.diskReserveBytes >> 20) are needed to begin anything"
        )
    }

    func hasNoRoom() async -> Bool { await usageWithoutRoom() != nil }

    private func usageWithoutRoom() async -> DiskUsage? {
        await blueprint.host.diskUsage().flatMap { $0.freeBytes < pace.diskReserveBytes ? $0 : nil }
    }

    /// The engine's disk where it is full; nil where something can still be written there, or it cannot be seen.
    func fullDisk() async -> DiskUsage? {
        await blueprint.host.diskUsage().flatMap { $0.freeBytes < pace.fullDiskBytes ? $0 : nil }
    }

    /// Ends the threads. Nothing may be asked for afterwards.
    package func close() async { await probe.dialer.close() }
}
