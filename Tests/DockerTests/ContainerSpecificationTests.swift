import FoundationEssentials
import NIOHTTP1
import Testing

@testable import Docker

@Suite struct ContainerSpecificationTests {
    private func document(_ specification: ContainerSpecification) throws -> String {
        try specification.request.encodedText()
    }

    @Test func neverAsksForPrivileges() throws {
        let text = try document(ContainerSpecification(image: "i"))
        #expect(text.contains(#""Privileged":false"#))
        #expect(text.contains(#""CapDrop":["ALL"]"#))
        #expect(text.contains(#""RestartPolicy":{"Name":"no"}"#))
        #expect(text.contains(#""SecurityOpt":["no-new-privileges:true"]"#))
        for word in [
            "PidMode", "UsernsMode", "UTSMode", "Devices", "PortBindings", "PublishAllPorts", "VolumesFrom", "Binds",
            "CgroupParent",
        ] {
            #expect(!text.contains("\"\(word)\""))
        }
    }

    @Test func memoryAndSwapAreEqual() throws {
        var specification = ContainerSpecification(image: "i")
        specification.memoryBytes = 123_456_789
        let text = try document(specification)
        #expect(text.contains(#""Memory":123456789,"MemorySwap":123456789"#))
    }

    @Test func gpusAreRequestedFromNvidia() throws {
        var specification = ContainerSpecification(image: "i")
        specification.gpus = .count(2)
        #expect(
            try document(specification).contains(
                #""DeviceRequests":[{"Capabilities":[["gpu"]],"Count":2,"Driver":"nvidia"}]"#
            )
        )
        specification.gpus = .devices(["0", "GPU-1"])
        #expect(
            try document(specification).contains(
                #""DeviceRequests":[{"Capabilities":[["gpu"]],"DeviceIDs":["0","GPU-1"],"Driver":"nvidia"}]"#
            )
        )
    }

    @Test func bridgeAddressIsFixed() throws {
        var specification = ContainerSpecification(image: "i")
        specification.network = .bridge(name: "net0", ipv4: "10.9.0.2")
        let text = try document(specification)
        #expect(text.contains(#""NetworkMode":"net0""#))
        #expect(text.contains(#""EndpointsConfig":{"net0":{"IPAMConfig":{"IPv4Address":"10.9.0.2"}}}"#))
    }

    @Test func refusesWhatOpensTheHost() {
        func isRefused(_ change: (inout ContainerSpecification) -> Void) -> Bool {
            var specification = ContainerSpecification(image: "i")
            change(&specification)
            do { try specification.check(operation: "test") } catch { return true }
            return false
        }
        #expect(!isRefused { _ in })
        for name in ["host", "bridge", "none", "", "container:abc"] {
            #expect(isRefused { $0.network = .bridge(name: name, ipv4: nil) }, "\(name)")
        }
        #expect(isRefused { $0.sysctls = ["kernel.core_pattern": "|/x"] })
        #expect(isRefused { $0.seccompProfile = "unconfined" })
        #expect(isRefused { $0.appArmorProfile = "unconfined" })
        #expect(isRefused { $0.binds = [BindMount(source: "/var/run/docker.sock", target: "/s", isReadOnly: true)] })
        #expect(isRefused { $0.memoryBytes = 0 })
        #expect(isRefused { $0.pidsLimit = 0 })
        #expect(isRefused { $0.pidsLimit = -1 })
        #expect(isRefused { $0.nanoCPUs = 0 })
        #expect(isRefused { $0.diskQuotaBytes = 0 })
        #expect(isRefused { $0.log.maxFiles = 0 })
    }

    @Test(arguments: ["..", "a/../b", "a//b", "/a", "a/", ".", "a b", "a?b", "a#b", "a%2fb", "", "a\nb", "é"])
    func identifiersCannotLeaveTheirPath(_ id: String) {
        #expect(throws: DockerError.self) { try EngineCall("test", .GET, ["containers", id, "json"]) }
    }

    @Test func identifiersAndQueriesAreEncoded() throws {
        let call = try EngineCall("test", .GET, ["images", "r:5/a/b@sha256:0", "json"], query: [("a&b", "c=d e/é")])
        #expect(call.path == "/images/r%3A5%2Fa%2Fb%40sha256%3A0/json?a%26b=c%3Dd%20e%2F%C3%A9")
    }
}
