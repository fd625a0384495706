import Docker
import FoundationEssentials
import Logging
import Testing

@testable import func Docker.engineDate

@Suite struct EngineTests {
    @Test func answersWhoItIs() async throws {
        try await withEngine { test in
            try await test.engine.ping()
            let version = try await test.engine.version()
            #expect(APIVersion(parsing: version.apiVersion).map { $0 >= DockerEngine.minimumAPIVersion } == true)
            let information = try await test.engine.information()
            #expect(information.processorCount > 0)
            #expect(information.memoryBytes > 0)
            #expect([1, 2].contains(information.cgroupVersion))
            #expect(information.runtimes.contains("runc"))
            #expect(!information.storageDriver.isEmpty)
            #expect(["x86_64", "aarch64"].contains(information.architecture))
        }
    }

    @Test func anAbsentEngineIsUnavailableAtOnce() async throws {
        let engine = DockerEngine(
            host: DockerHost(socketPath: "/tmp/no-engine-here.sock"),
            logger: Logger(label: "test")
        )
        let start = ContinuousClock.now
        #expect(try await kind { try await engine.ping() } == .unavailable)
        #expect(ContinuousClock.now - start < .seconds(20))
        try await engine.shutdown()
    }

    @Test func onlyUnixSocketsAreHosts() throws {
        #expect(try DockerHost(parsing: "unix:///run/docker.sock").socketPath == "/run/docker.sock")
        for text in ["tcp://127.0.0.1:2375", "unix://relative", "/run/docker.sock", ""] {
            #expect(throws: DockerError.self) { try DockerHost(parsing: text) }
        }
    }

    @Test func networksLiveAndDie() async throws {
        try await withEngine { test in
            let specification = NetworkSpecification(
                name: test.mark,
                bridgeName: "mdt\(test.mark.suffix(8))",
                subnet: "10.213.7.0/24",
                gateway: "10.213.7.1",
                labels: test.labels
            )
            let id = try await test.engine.createNetwork(specification)
            #expect(try await kind { _ = try await test.engine.createNetwork(specification) } == .conflict)
            var container = test.sleeper()
            container.network = .bridge(name: test.mark, ipv4: "10.213.7.9")
            container.sysctls = ["net.ipv6.conf.all.disable_ipv6": "1"]
            container.dnsServers = ["10.213.7.1"]
            container.extraHosts = ["friend:10.213.7.1"]
            let member = try await test.engine.createContainer(named: test.mark, container).id
            try await test.engine.startContainer(member)
            let inspected = try await test.engine.inspectContainer(member).networks[test.mark]
            #expect(inspected?.ipv4Address == "10.213.7.9")
            #expect(inspected?.configuredIPv4Address == "10.213.7.9")

            let network = try await test.engine.inspectNetwork(test.mark)
            #expect(network.id == id)
            #expect(network.bridgeName == specification.bridgeName)
            #expect(network.subnets.map(\.subnet) == ["10.213.7.0/24"])
            #expect(network.subnets.map(\.gateway) == ["10.213.7.1"])
            #expect(network.containers[member]?.ipv4Address == "10.213.7.9/24")
            #expect(!network.isIPv6Enabled)
            #expect(try await test.engine.listNetworks(labels: ["martlet.test": test.mark]).map(\.id) == [id])

            try await test.engine.removeContainer(member, force: true)
            try await test.engine.removeNetwork(id)
            #expect(try await kind { _ = try await test.engine.inspectNetwork(id) } == .notFound)
        }
    }

    @Test func readsTheEnginesTimes() {
        #expect(engineDate("2026-11-24T00:02:52.5Z")?.timeIntervalSince1970 == 1_795_478_572.5)
        #expect(engineDate("2026-11-24T00:02:52.703693326Z").map { Int($0.timeIntervalSince1970) } == 1_795_478_572)
        #expect(engineDate("2026-11-24T01:02:52+01:00")?.timeIntervalSince1970 == 1_795_478_572)
        #expect(engineDate("0001-01-01T00:00:00Z") == nil)
        #expect(engineDate("") == nil)
        #expect(engineDate(nil) == nil)
    }
}
