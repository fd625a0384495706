import Docker
import FoundationEssentials
import Logging
import Testing

/// The real engine that the environment names.
struct EngineForTests {
    let engine: DockerEngine
    let image: String
    /// Tells this test's objects from all others.
    let mark = "martlet-docker-test-" + String(UUID().uuidString.lowercased().prefix(8))

    /// The label on every object of this test.
    var labels: [String: String] { ["martlet.test": mark] }

    /// A container that sleeps, and dies at once of SIGTERM.
    func sleeper(_ script: String = "exec sleep 600") -> ContainerSpecification {
        var specification = ContainerSpecification(image: image)
        specification.entrypoint = ["/bin/sh", "-c", script]
        specification.labels = labels
        specification.memoryBytes = 64 << 20
        return specification
    }
}

/// Runs `body` with an engine and removes afterwards what bears its mark. Fails where there is no engine.
func withEngine<Value: Sendable>(
    limits: EngineLimits = EngineLimits(),
    _ body: (EngineForTests) async throws -> Value
) async throws -> Value {
    let missing: Comment = "MARTLET_TEST_DOCKER_HOST and MARTLET_TEST_IMAGE are not set: run ops/test"
    let environment = ProcessInfo.processInfo.environment
    let host = try DockerHost(parsing: try #require(environment["MARTLET_TEST_DOCKER_HOST"], missing))
    let image = try #require(environment["MARTLET_TEST_IMAGE"], missing)
    let engine = DockerEngine(host: host, logger: Logger(label: "test"), limits: limits)
    let test = EngineForTests(engine: engine, image: image)
    let result: Result<Value, any Error>
    do { result = .success(try await body(test)) } catch { result = .failure(error) }
    try await test.cleanUp()
    try await engine.shutdown()
    return try result.get()
}

extension EngineForTests {
    fileprivate func cleanUp() async throws {
        let filter = labels.mapValues { Optional($0) }
        for container in try await engine.listContainers(labels: filter) {
            try await engine.removeContainer(container.id, force: true)
        }
        for network in try await engine.listNetworks(labels: filter) { try await engine.removeNetwork(network.id) }
    }
}

/// The kind of the `DockerError` that `body` throws; nil if it throws none.
func kind(_ body: () async throws -> Void) async throws -> DockerError.Kind? {
    do {
        try await body()
        return nil
    } catch let error as DockerError {
        return error.kind
    }
}
