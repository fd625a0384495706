import Docker
import Domain
import Firewall
import FoundationEssentials
import Store
import Testing

@testable import Runner

@Suite struct BlueprintTests {
    private func blueprint(diskNote: String? = nil) throws -> ContainerBlueprint {
        let host = HostFacts(
            architecture: "x86_64",
            processors: 2,
            memoryBytes: 8 << 30,
            diskBytes: 100 << 30,
            gpus: 0,
            gpuType: nil,
            diskNote: diskNote,
            hasIPv6: true,
            resolvers: [IPv4Address(1, 1, 1, 1)],
            engine: EngineReport()
        )
        return ContainerBlueprint(
            runner: .random(),
            network: "martlet0",
            addresses: try AddressPlan(subnet: IPv4Range(parsing: "10.88.0.0/16")),
            daemon: DaemonCopy(hash: "abc", directory: "/state/daemon/abc"),
            host: host,
            limits: SandboxLimits(),
            runtime: nil
        )
    }

    private func image(_ configuration: String = #"{"Entrypoint":["/init"],"Cmd":["serve"],"User":"app"}"#) throws
        -> ImageInspection
    {
        let json = """
            {"Id":"sha256:1234","RepoTags":["a:1"],"RepoDigests":[],"Architecture":"amd64","Os":"linux","Size":1,"Config":\(configuration)}
            """
        return try JSONDecoder().decode(ImageInspection.self, from: Data(json.utf8))
    }

    private func sandbox() -> AssignedSandbox {
        var sandbox = AssignedSandbox(id: .random(), image: "a:1", toolboxToken: "secret")
        sandbox.cpu = 2
        sandbox.memoryGib = 3
        sandbox.diskGib = 10
        sandbox.slot = 7
        return sandbox
    }

    @Test func theFloorIsAlwaysThere() throws {
        let its = try blueprint().specification(of: sandbox(), image: image())
        #expect(its.noNewPrivileges)
        #expect(!its.usesInit && its.stopSignal == "SIGTERM", "the daemon's supervisor is process 1")
        #expect(its.capabilities.isDisjoint(with: [.mknod, .auditWrite]))
        #expect(its.pidsLimit == 1024)
        #expect((1...65_536).contains(its.openFilesLimit), "the host's own limit, where that is less")
        #expect(its.memoryBytes == 3 << 30)
        #expect(its.nanoCPUs == 2_000_000_000)
        #expect(its.log.maxFileBytes == 10 << 20 && its.log.maxFiles == 2)
        #expect(its.network == .bridge(name: "martlet0", ipv4: "10.88.0.8", mac: "02:42:0a:58:00:08"))
        #expect(its.sysctls == ["net.ipv6.conf.all.disable_ipv6": "1"])
        #expect(its.dnsServers == ["1.1.1.1"])
        #expect(its.binds == [BindMount(source: "/state/daemon/abc", target: "/.martlet/bin", isReadOnly: true)])
        #expect(its.seccompProfile == nil && its.appArmorProfile == nil, "nil is the engine's own profile")
    }

    @Test func sudoIsOnlyWhereTheSnapshotAllowsIt() throws {
        var its = sandbox()
        its.allowsSudo = true
        let specification = try blueprint().specification(of: its, image: image())
        #expect(!specification.noNewPrivileges)
        #expect(specification.capabilities.contains(.auditWrite))
    }

    @Test func theImagesOwnProcessRunsUnderTheDaemon() throws {
        let its = try blueprint().specification(of: sandbox(), image: image())
        #expect(its.entrypoint == ["/.martlet/bin/martlet-daemon", "--", "/init", "serve"])
        #expect(its.image == "sha256:1234", "by id, so that a moving tag cannot mix two images")
        #expect(its.user == nil, "the image's")
        let silent = try blueprint().specification(of: sandbox(), image: image("{}"))
        #expect(silent.entrypoint == ["/.martlet/bin/martlet-daemon"])
        var own = sandbox()
        own.entrypoint = ["sleep", "9"]
        own.osUser = "root"
        let changed = try blueprint().specification(of: own, image: image())
        #expect(changed.entrypoint == ["/.martlet/bin/martlet-daemon", "--", "sleep", "9"])
        #expect(changed.user == "root")
    }

    @Test func usersCannotSetWhatTheDaemonReads() throws {
        var its = sandbox()
        its.env = ["A": "1", "MARTLET_DAEMON_TOKEN": "mine", "": "x", "B=C": "y"]
        let made = try blueprint().specification(of: its, image: image())
        #expect(made.env == ["A=1", "MARTLET_SANDBOX_ID=\(its.id)"])
    }

    @Test func aQuotaThatCannotBeSetIsNotAskedForButReported() throws {
        #expect(try blueprint().specification(of: sandbox(), image: image()).diskQuotaBytes == 10 << 30)
        #expect(try blueprint(diskNote: "none").specification(of: sandbox(), image: image()).diskQuotaBytes == nil)
    }

    @Test func anAddressOutsideOfTheSubnetIsRefused() throws {
        let plan = try AddressPlan(subnet: IPv4Range(parsing: "10.1.2.0/29"))
        #expect(plan.slots == 5)
        #expect("\(plan.gateway)" == "10.1.2.1")
        #expect("\(try plan.address(ofSlot: 1))" == "10.1.2.2")
        #expect("\(try plan.address(ofSlot: 5))" == "10.1.2.6")
        #expect(throws: RunnerError.self) { try plan.address(ofSlot: 6) }
        #expect(throws: RunnerError.self) { try AddressPlan(subnet: IPv4Range(parsing: "10.1.2.0/30")) }
    }

    /// A number would have the engine give the host's first GPUs to each of them.
    @Test func gpusAreAskedForByDevice() throws {
        var one = sandbox()
        one.gpu = 1
        one.gpuDevices = [0]
        var other = sandbox()
        other.gpu = 2
        other.gpuDevices = [1, 3]
        #expect(try blueprint().specification(of: one, image: image()).gpus == .devices(["0"]))
        #expect(try blueprint().specification(of: other, image: image()).gpus == .devices(["1", "3"]))
        #expect(try blueprint().specification(of: sandbox(), image: image()).gpus == nil)
        other.gpuDevices = [1, 2]
        var moved = other
        moved.gpuDevices = [2, 3]
        #expect(try blueprint().shape(of: other) != blueprint().shape(of: moved), "a container keeps its devices")
    }

    @Test func theShapeChangesWithWhatCannotBeChangedLater() throws {
        let blueprint = try blueprint()
        let one = sandbox()
        var other = one
        other.cpu = 9
        #expect(blueprint.shape(of: one) == blueprint.shape(of: other), "limits change on the living container")
        other = one
        other.env = ["A": "B"]
        #expect(blueprint.shape(of: one) != blueprint.shape(of: other))
    }
}

@Suite struct HostFactsTests {
    @Test func onlyResolversThatASandboxCanReachAreTaken() {
        let text = """
            # made by hand
            nameserver 127.0.0.53
            nameserver 169.254.169.253
            nameserver fe80::1
            nameserver\t10.0.0.2
            search example.com
            nameserver 8.8.8.8
            nameserver 8.8.4.4
            nameserver 9.9.9.9
            """
        #expect(HostFacts.resolvers(in: text).map { "\($0)" } == ["10.0.0.2", "8.8.8.8", "8.8.4.4"])
    }

    @Test func aDiskQuotaIsPromisedOnlyWhereTheDriverHasOne() {
        #expect(HostFacts.diskNote(driver: "btrfs", status: [:]) == nil)
        #expect(HostFacts.diskNote(driver: "zfs", status: [:]) == nil)
        #expect(
            HostFacts.diskNote(driver: "overlay2", status: ["Backing Filesystem": "extfs"])?.contains("overlay2")
                == true
        )
        let xfs = ["Backing Filesystem": "xfs"]
        #expect(
            HostFacts.diskNote(driver: "overlay2", status: xfs, mounts: "/dev/a /var xfs rw,noquota 0 0")?.contains(
                "pquota"
            ) == true
        )
        #expect(HostFacts.diskNote(driver: "overlay2", status: xfs, mounts: "/dev/a /var xfs rw,prjquota 0 0") == nil)
        #expect(HostFacts.diskNote(driver: "vfs", status: [:])?.contains("vfs") == true)
    }

    @Test func imagesAreToldUnderEveryNameThatUsersWrite() {
        let names = ImageShelf.names(tags: ["busybox:latest", "a/b:1", "<none>:<none>"], digests: ["a/b@sha256:1"])
        #expect(names == ["a/b:1", "a/b@sha256:1", "busybox", "busybox:latest"])
    }
}
