package import Docker
package import Domain
package import Firewall
package import Store
import Crypto
import FoundationEssentials

/// Everything that decides what a sandbox's container is like, but the sandbox itself.
package struct ContainerBlueprint: Sendable {
    package var runner: RunnerID
    package var network: String
    package var addresses: AddressPlan
    package var daemon: DaemonCopy
    package var host: HostFacts
    package var limits: SandboxLimits
    package var runtime: String?
    /// Where slots of volumes are.
    package var volumes: VolumeFolders?

    package init(
        runner: RunnerID,
        network: String,
        addresses: AddressPlan,
        daemon: DaemonCopy,
        host: HostFacts,
        limits: SandboxLimits,
        runtime: String?
    ) {
        self.runner = runner
        self.network = network
        self.addresses = addresses
        self.daemon = daemon
        self.host = host
        self.limits = limits
        self.runtime = runtime
    }

    static let gib: Int64 = 1 << 30
    /// What the daemon in the sandbox is told; users cannot set names of this prefix.
    static let reservedPrefix = "MARTLET_"
}

extension ContainerBlueprint {
    /// The container of a sandbox: an allow-list. Of the image only its process (entrypoint, command, user) is taken over, by
    /// the engine or by us; of the user only environment, entrypoint, user name and sizes.
    package func specification(of sandbox: AssignedSandbox, image: ImageInspection) throws -> ContainerSpecification {
        // By id: a tag that moves between the look at the image and now cannot give another one's files to this entrypoint.
        var its = ContainerSpecification(image: image.id)
        its.user = sandbox.osUser
        its.env = environment(of: sandbox)
        // The daemon's supervisor is process 1: it reaps, and no program of the sandbox can kill it.
        its.usesInit = false
        // Whatever the image says: an image's own signal would be for its own program.
        its.stopSignal = "SIGTERM"
        its.entrypoint = [DaemonCopy.pathInSandbox] + argv(of: sandbox, image: image)
        its.hostname = String("\(sandbox.id)".prefix(8))
        its.binds = [BindMount(source: daemon.directory, target: DaemonCopy.mountPoint, isReadOnly: true)]
        its.binds += volumeBinds(of: sandbox)
        setLimits(&its, sandbox)
        setPrivileges(&its, sandbox)
        let address = try addresses.address(ofSlot: sandbox.slot)
        its.network = .bridge(name: network, ipv4: "\(address)", mac: "\(HardwareAddress(of: address))")
        its.dnsServers = host.resolvers.map { "\($0)" }
        if host.hasIPv6 { its.sysctls = ["net.ipv6.conf.all.disable_ipv6": "1"] }
        if sandbox.gpu > 0 { its.gpus = .devices(sandbox.gpuDevices.map { "\($0)" }) }
        its.runtime = runtime
        its.labels =
            ContainerOwner(sandbox: sandbox.id, runner: runner, epoch: sandbox.epoch, slot: sandbox.slot).labels
        its.labels[ContainerLabel.image] = sandbox.image
        its.labels[ContainerLabel.daemon] = daemon.hash
        its.labels[ContainerLabel.shape] = shape(of: sandbox)
        return its
    }

    /// Slots of their own, read-only: what is mounted on a slot while the container runs appears in it and can be written to; a
    /// slot on which nothing is mounted takes nothing. See `README.md`.
    private func volumeBinds(of sandbox: AssignedSandbox) -> [BindMount] {
        guard let volumes else { return [] }
        return zip(sandbox.slots, sandbox.volumes).map { slot, volume in
            BindMount(
                source: volumes.path(of: slot),
                target: volume.mountPath,
                isReadOnly: true,
                propagation: .rslave
            )
        }
    }

    private func argv(of sandbox: AssignedSandbox, image: ImageInspection) -> [String] {
        let original = sandbox.entrypoint ?? (image.entrypoint + image.command)
        return original.isEmpty ? [] : ["--"] + original
    }

    private func environment(of sandbox: AssignedSandbox) -> [String] {
        // No secret is here: /proc/1/environ would show it. The daemon is told its token after each start.
        let own = ["\(Self.reservedPrefix)SANDBOX_ID=\(sandbox.id)"]
        let users = sandbox.env.filter {
            !$0.key.hasPrefix(Self.reservedPrefix) && !$0.key.isEmpty && !$0.key.contains("=")
        }
        return users.map { "\($0.key)=\($0.value)" }.sorted() + own
    }

    private func setLimits(_ its: inout ContainerSpecification, _ sandbox: AssignedSandbox) {
        its.memoryBytes = Int64(sandbox.memoryGib) * Self.gib
        its.nanoCPUs = Int64(sandbox.cpu) * 1_000_000_000
        its.pidsLimit = limits.pids
        its.openFilesLimit = limits.openFiles
        its.log = LogLimits(maxFileBytes: limits.logFileBytes, maxFiles: limits.logFiles)
        its.oomScoreAdjustment = limits.oomScoreAdjustment
        its.diskQuotaBytes = host.diskNote == nil ? wantedDiskBytes(of: sandbox) : nil
    }

    private func setPrivileges(_ its: inout ContainerSpecification, _ sandbox: AssignedSandbox) {
        its.capabilities = Self.capabilities
        its.noNewPrivileges = !sandbox.allowsSudo
        if sandbox.allowsSudo { its.capabilities.insert(.auditWrite) }
    }

    /// What package managers and servers running as root need. No raw sockets, no devices, no kernel audit (sudo's PAM writes
    /// there, so it is added where sudo is allowed).
    static let capabilities: Set<Capability> = [
        .chown, .dacOverride, .fowner, .fsetid, .kill, .netBindService, .setfcap, .setgid, .setpcap, .setuid,
        .sysChroot,
    ]

    /// A hash of what cannot be changed on a container once made.
    package func shape(of sandbox: AssignedSandbox) -> String {
        var text = [
            sandbox.image, sandbox.osUser ?? "", "\(sandbox.allowsSudo)", "\(sandbox.slot)", "\(sandbox.gpuDevices)",
            network,
            daemon.hash,
        ]
        text += [runtime ?? "", "\(host.hasIPv6)"] + host.resolvers.map { "\($0)" }
        text += sandbox.volumes.map { "\($0.volumeId) \($0.mountPath)" }
        text += sandbox.entrypoint ?? ["\u{0}image"]
        text += sandbox.env.map { "\($0.key)=\($0.value)" }.sorted()
        let bytes = text.map { "\($0.utf8.count):\($0)" }.joined()
        return String(SHA256.hash(data: Data(bytes.utf8)).hexadecimal.prefix(16))
    }

    /// The rules of a sandbox's address. Throws ``FirewallError`` for an allow list that cannot be read, `noAddress` for a slot
    /// outside of the subnet.
    package func firewall(of sandbox: AssignedSandbox) throws -> SandboxFirewall {
        SandboxFirewall(
            slot: sandbox.slot,
            sandbox: "\(sandbox.id)",
            epoch: sandbox.epoch,
            address: try addresses.address(ofSlot: sandbox.slot),
            egress: try EgressPolicy(blockAll: sandbox.networkBlockAll, allowList: sandbox.networkAllowList)
        )
    }

    /// The rules of a container that no row explains: nothing goes out.
    package func firewall(ofUnexplained owner: ContainerOwner) throws -> SandboxFirewall {
        SandboxFirewall(
            slot: owner.slot,
            sandbox: "\(owner.sandbox)",
            epoch: owner.epoch,
            address: try addresses.address(ofSlot: owner.slot),
            egress: .blockAll
        )
    }
}

// Limits of an existing container.
extension ContainerBlueprint {
    package func wantedLimits(of sandbox: AssignedSandbox) -> ResourceUpdate {
        ResourceUpdate(
            memoryBytes: Int64(sandbox.memoryGib) * Self.gib,
            nanoCPUs: Int64(sandbox.cpu) * 1_000_000_000,
            pidsLimit: limits.pids
        )
    }

    package func wantedDiskBytes(of sandbox: AssignedSandbox) -> Int64 { Int64(sandbox.diskGib) * Self.gib }

    /// - Parameter disk: the quota in force.
    package func hasWantedLimits(_ found: ContainerLimits, disk: Int64?, _ sandbox: AssignedSandbox) -> Bool {
        let wanted = wantedLimits(of: sandbox)
        if host.quotas != nil, disk != wantedDiskBytes(of: sandbox) { return false }
        return found.memoryBytes == wanted.memoryBytes && found.nanoCPUs == wanted.nanoCPUs
            && found.pidsLimit == wanted.pidsLimit
    }

    /// What is in force, beside what was asked for.
    package func effective(_ found: ContainerLimits, disk: Int64?, _ sandbox: AssignedSandbox) -> EffectiveLimits {
        var effective = EffectiveLimits()
        effective.requestedCpu = sandbox.cpu
        effective.requestedMemoryGib = sandbox.memoryGib
        effective.requestedDiskGib = sandbox.diskGib
        effective.cpu = Double(found.nanoCPUs) / 1e9
        effective.memoryBytes = found.memoryBytes
        effective.pids = found.pidsLimit
        effective.diskBytes = disk
        effective.diskNote = diskNote(disk, sandbox)
        return effective
    }

    private func diskNote(_ quota: Int64?, _ sandbox: AssignedSandbox) -> String? {
        guard let quota else {
            return host.diskNote ?? "not enforced: the container was made without a quota"
        }
        guard quota != wantedDiskBytes(of: sandbox) else { return nil }
        return
            "a disk quota is fixed when the container is made: \(quota / Self.gib) GiB; make a new sandbox to change it"
    }
}
