import Docker
import Domain
import NIOCore
import NIOPosix
import Postgres
import Runner
import Store
import TestSupport
import Testing

/// Snapshots made by the whole service, with a real engine and a real registry, which is Martlet's own and, under another name,
/// the user's.
@Suite(.serialized, .timeLimit(.minutes(5))) struct SnapshotServiceTests {
    @Test func oneIsMadeUsedAndLetGoOf() async throws {
        try await withRegistry { host, registry in
            let source = try await push(host, registry, changes: ["VOLUME /kept"])
            try await serve(host, registry) {
                let id = try await ask(host, source)
                let snapshot = try await settled(host, id)
                #expect(snapshot.state == .active, "\(snapshot.errorReason ?? "")")
                let image = try #require(snapshot.image.flatMap { InternalImage($0) })
                #expect(image.repository == "snapshots/\(id)")
                #expect(snapshot.imageEntrypoint == nil)
                #expect(snapshot.sizeBytes != nil)
                try await host.eventually("what was borrowed is given back") { try await !has(host, source) }
                #expect(try await has(host, registry.access.reference(of: image)))

                let box = try await host.database.makeSandbox(of: host.tenant) { $0.snapshot = snapshot }.id
                try await host.wait(box, for: .started)
                let container = try await host.container(box)
                let original = try await host.engine.inspectImage(registry.access.reference(of: image)).id
                #expect(original != container.imageID, "it is of its twin")

                _ = try await host.database.owner.snapshots.delete(id, of: host.tenant.organization, by: Actor("test"))
                try await host.want(box, .stopped)
                try await host.wait(box, for: .stopped)
                #expect(try await has(host, registry.access.reference(of: image)), "a sandbox is of it")
                try await host.want(box, .destroyed)
                try await host.waitUntilGone(box)
                try await host.eventually("the image leaves this host") {
                    try await !has(host, registry.access.reference(of: image))
                }
                try await host.eventually("and its twin with it") { try await !has(host, container.imageID) }
            }
        }
    }

    @Test func whatARegionAsksForIsFetchedEarly() async throws {
        try await withRegistry { host, registry in
            let source = try await push(host, registry)
            try await serve(host, registry) {
                let id = try await ask(host, source) { $0.regionIDs = [host.tenant.region] }
                let snapshot = try await settled(host, id)
                let image = try #require(snapshot.image.flatMap { InternalImage($0) })
                let reference = registry.access.reference(of: image)
                try await removeAll(host, under: registry.access.host, of: id)
                try await host.eventually("it is fetched again though nobody starts anything") {
                    try await has(host, reference)
                }
                try await host.eventually("the database knows that it is here") {
                    try await host.database.owner.queryFirst(
                        "SELECT FROM runner_image WHERE image = \(image.description)"
                    ) != nil
                }
                try await host.eventually("the fetching is over") {
                    try await host.database.owner.queryFirst("SELECT FROM runner_pull") == nil
                }
            }
        }
    }

    /// More early fetches than there are hands, from a registry that never answers.
    @Test func noSandboxWaitsForEarlyFetches() async throws {
        try await TestHost.with { host in
            let silent = try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
                .bind(host: "127.0.0.1", port: 0).get()
            let images = (0...host.configuration.pace.pullsLimit).map {
                "127.0.0.1:\(silent.localAddress?.port ?? 0)/never:\($0)"
            }
            try await host.withParts { parts in
                let (wakes, wake) = AsyncStream<SandboxID>.makeStream()
                var woken = wakes.makeAsyncIterator()
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask { await parts.puller.run { wake.yield($0) } }
                    for image in images { group.addTask { _ = await parts.puller.prefetch(image) } }
                    let (own, joining) = (SandboxID.random(), SandboxID.random())
                    try await host.eventually("the early ones to have begun") {
                        try await host.database.owner.query("SELECT FROM runner_pull").count == images.count
                    }
                    try parts.puller.fetch("127.0.0.1:1/none:1.0", for: own)
                    #expect(await woken.next() == own)
                    try parts.puller.fetch(images[0], for: joining)
                    try await silent.close().get()
                    group.cancelAll()
                }
            }
        }
    }

    @Test func aWrongPasswordIsTold() async throws {
        try await withRegistry { host, registry in
            let source = try await push(host, registry)
            try await host.database.owner.execute(
                "UPDATE docker_registry SET sealed_password = \(try registry.sealed("wrong", host).bytes)"
            )
            try await serve(host, registry) {
                let failed = try await settled(host, try await ask(host, source))
                #expect(failed.state == .error)
                #expect(failed.errorReason?.contains("step pull") == true, "\(failed.errorReason ?? "")")
                #expect(failed.errorReason?.contains("refuses") == true, "\(failed.errorReason ?? "")")
            }
        }
    }

    /// Whoever names the digest of a private image that this host has must still be let in by its registry.
    @Test func aStrangerHasNothingByDigest() async throws {
        try await withRegistry { host, registry in
            let source = try await push(host, registry)
            let digest = try await host.engine.distributionDigest(source, credentials: registry.credentials)
            let byDigest = source.replacing(":1.0", with: "@\(digest)")
            try await host.engine.pullImage(byDigest, credentials: registry.credentials)
            try await host.database.owner.execute("DELETE FROM docker_registry")
            try await serve(host, registry) {
                let failed = try await settled(host, try await ask(host, byDigest))
                #expect(failed.state == .error)
                #expect(failed.errorReason?.contains("refuses") == true, "\(failed.errorReason ?? "")")
            }
            #expect(try await has(host, byDigest), "it was here before")
            try await host.engine.removeImage(byDigest)
        }
    }

    /// General snapshots start whatever the engine knows by a name, so a pull must not make that mean another image.
    @Test func aNameOfThisHostsStaysWhereItWas() async throws {
        try await withRegistry { host, registry in
            let source = try await push(host, registry)
            let repository = source.replacing(":1.0", with: "")
            let tar = ByteBuffer(repeating: 0, count: 10_240)
            let local = try await host.engine.importImage(
                tar: tar,
                repository: repository,
                tag: "1.0",
                changes: ["LABEL martlet.test=local"]
            )
            try await serve(host, registry) {
                let snapshot = try await settled(host, try await ask(host, source))
                #expect(snapshot.state == .active, "\(snapshot.errorReason ?? "")")
                let image = try #require(snapshot.image.flatMap { InternalImage($0) })
                let made = try await host.engine.inspectImage(registry.access.reference(of: image))
                #expect(made.id != local, "it is the registry's")
                #expect(try await host.engine.inspectImage(source).id == local)
            }
            try await host.engine.removeImage(source)
        }
    }

    @Test func ourOwnRegistryIsNobodysSource() async throws {
        try await withRegistry { host, registry in
            try await serve(host, registry) {
                let failed = try await settled(host, try await ask(host, "\(registry.access.host)/snapshots/x:1.0"))
                #expect(failed.state == .error)
                #expect(failed.errorReason?.contains("Martlet's own registry") == true, "\(failed.errorReason ?? "")")
            }
        }
    }

    // MARK: - Doing

    /// A registry with what it takes to use it.
    private struct TestRegistry: Sendable {
        let access: RegistryAccess
        /// As users name it.
        var usersHost: String { access.host.replacing("127.0.0.1", with: "localhost") }
        let username: String
        let password: String
        let secrets: SecretBox
        let id = RegistryID.random()

        func sealed(_ password: String, _ host: TestHost) throws -> SealedSecret {
            try secrets.seal(password, for: RegistryRecord.place(of: id, host: usersHost))
        }

        var credentials: RegistryCredentials {
            RegistryCredentials(username: username, password: password, serverAddress: usersHost)
        }
    }

    private func withRegistry(_ body: (TestHost, TestRegistry) async throws -> Void) async throws {
        let (username, password) = (
            try TestStack.environment("MARTLET_TEST_REGISTRY_USERNAME"),
            try TestStack.environment("MARTLET_TEST_REGISTRY_PASSWORD")
        )
        let registry = TestRegistry(
            access: try RegistryAccess(
                url: try TestStack.environment("MARTLET_TEST_REGISTRY_URL"),
                username: username,
                password: password
            ),
            username: username,
            password: password,
            secrets: try SecretBox(hexKey: String(repeating: "1f", count: 32))
        )
        try await TestHost.with { host in
            let wish = RegistryWish(
                name: "users",
                host: try #require(RegistryHost(registry.usersHost)),
                project: "",
                username: username,
                password: try registry.sealed(password, host)
            )
            _ = try await host.database.owner.registries.insert(wish, id: registry.id, of: host.tenant.organization)
            try await body(host, registry)
            for snapshot in try await host.database.owner.query("SELECT id FROM snapshot WHERE NOT general") {
                try await removeAll(host, under: registry.access.host, of: try snapshot["id"])
            }
        }
    }

    private func serve(_ host: TestHost, _ registry: TestRegistry, _ body: () async throws -> Void) async throws {
        try await host.withService({
            $0.registry = registry.access
            $0.secrets = registry.secrets
            $0.pace.cacheInterval = .milliseconds(300)
            $0.pace.cacheGrace = .milliseconds(500)
            $0.pace.snapshotPollInterval = .milliseconds(300)
            $0.pace.diskLowPercent = 101
            $0.pace.diskHighPercent = 101
        }) { try await body() }
    }

    /// An image unlike all others, with nothing in it, in the registry and nowhere else.
    private func push(_ host: TestHost, _ registry: TestRegistry, changes: [String] = []) async throws -> String {
        let mark = "\(UInt64.random(in: 0 ... .max))"
        let repository = "\(registry.usersHost)/source/\(mark)"
        _ = try await host.engine.importImage(
            tar: ByteBuffer(repeating: 0, count: 10_240),
            repository: repository,
            tag: "1.0",
            changes: ["LABEL martlet.test=\(mark)"] + changes
        )
        _ = try await host.engine.pushImage(repository: repository, tag: "1.0", credentials: registry.credentials)
        try await host.engine.removeImage("\(repository):1.0")
        return "\(repository):1.0"
    }

    private func ask(_ host: TestHost, _ image: String, _ adjust: (inout NewSnapshot) -> Void = { _ in }) async throws
        -> SnapshotID
    {
        var new = NewSnapshot(organizationID: host.tenant.organization, name: "made", imageName: image)
        adjust(&new)
        try await host.database.owner.snapshots.insert(new, by: Actor("test"))
        return new.id
    }

    private func settled(_ host: TestHost, _ id: SnapshotID) async throws -> SnapshotRecord {
        try await host.eventually("the snapshot is settled", within: .seconds(150)) {
            let row = try await host.database.owner.queryFirst("SELECT state FROM snapshot WHERE id = \(id)")
            return try #require(row).decode("state", as: SnapshotState.self).isUnderWay == false
        }
        return try #require(try await host.database.owner.snapshots.find("\(id)", for: host.tenant.organization))
    }

    private func has(_ host: TestHost, _ reference: String) async throws -> Bool {
        do {
            _ = try await host.engine.inspectImage(reference)
            return true
        } catch let error as DockerError where error.kind == .notFound {
            return false
        }
    }

    private func removeAll(_ host: TestHost, under registry: String, of id: SnapshotID) async throws {
        for image in try await host.engine.listImages() {
            for name in image.repositoryTags + image.repositoryDigests
            where name.hasPrefix("\(registry)/snapshots/\(id)") {
                try? await host.engine.removeImage(name)
            }
        }
    }
}
