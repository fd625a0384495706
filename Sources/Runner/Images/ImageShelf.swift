package import Docker
package import Domain
package import Store
import Synchronization

/// Tells the database which images this host holds, so that sandboxes are placed where theirs is.
package final class ImageShelf: Sendable {
    /// Most names that are told; beyond, placement only loses a hint.
    package static let namesLimit = 2000

    private let engine: DockerEngine
    private let registry: RegistryAccess?
    private let queries: RunnerQueries
    private let runner: RunnerID
    private let told = Mutex<[String]?>(nil)

    package init(engine: DockerEngine, registry: RegistryAccess?, queries: RunnerQueries, runner: RunnerID) {
        self.engine = engine
        self.registry = registry
        self.queries = queries
        self.runner = runner
    }

    /// Reads the engine's list and writes it if it is another than last time.
    package func syncOnce() async throws {
        let names = Self.names(try await engine.listImages(), registry: registry)
        guard told.withLock({ $0 }) != names else { return }
        try await queries.replaceImages(names, of: runner)
        told.withLock { $0 = names }
    }

    /// The database may have lost what it was told.
    package func forget() { told.withLock { $0 = nil } }

    /// Every way in which a row may write an image that is here: with its tag, without `latest`, by digest; and where it is of
    /// the internal registry, under the name that rows have for that.
    static func names(_ images: [ImageSummary], registry: RegistryAccess? = nil) -> [String] {
        names(
            tags: images.flatMap(\.repositoryTags),
            digests: images.flatMap(\.repositoryDigests).map { registry?.internalName(of: $0) ?? $0 }
        )
    }

    static func names(tags: [String], digests: [String]) -> [String] {
        let real = (tags + digests).filter { !$0.contains("<none>") }
        let short = tags.filter { $0.hasSuffix(":latest") }.map { String($0.dropLast(":latest".count)) }
        return Array(Set(real + short).sorted().prefix(namesLimit))
    }
}
