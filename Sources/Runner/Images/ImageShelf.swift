package import Docker
package import Domain
package import Store
import Synchronization

/// Tells the database which images this host holds, so that sandboxes are placed where theirs is.
package final class ImageShelf: Sendable {
    /// Most names that are told; beyond, placement only loses a hint.
    package static let namesLimit = 2000

    private let engine: DockerEngine
    private let queries: RunnerQueries
    private let runner: RunnerID
    private let told = Mutex<[String]?>(nil)

    package init(engine: DockerEngine, queries: RunnerQueries, runner: RunnerID) {
        self.engine = engine
        self.queries = queries
        self.runner = runner
    }

    /// Reads the engine's list and writes it if it is another than last time.
    package func syncOnce() async throws {
        let names = Self.names(try await engine.listImages())
        guard told.withLock({ $0 }) != names else { return }
        try await queries.replaceImages(names, of: runner)
        told.withLock { $0 = names }
    }

    /// The database may have lost what it was told.
    package func forget() { told.withLock { $0 = nil } }

    /// Every way in which a user may write an image that is here: with its tag, without `latest`, by digest.
    static func names(_ images: [ImageSummary]) -> [String] {
        names(tags: images.flatMap(\.repositoryTags), digests: images.flatMap(\.repositoryDigests))
    }

    static func names(tags: [String], digests: [String]) -> [String] {
        let real = (tags + digests).filter { !$0.contains("<none>") }
        let short = tags.filter { $0.hasSuffix(":latest") }.map { String($0.dropLast(":latest".count)) }
        return Array(Set(real + short).sorted().prefix(namesLimit))
    }
}
