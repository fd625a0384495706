import Docker
import Logging
import Domain
import Store
import Synchronization

/// Images without a name that the steps of one build have left in the engine: all of a build that failed, and those of stages that
/// are no part of the image. No later build would use them, as steps are taken from finished images only.
///
/// Each is noted in the database as a loan, so that a runner that was killed while it built gives them back when it comes again.
/// What the engine has made and not told yet by then is found as a child of those; what a step that still runs then makes is not.
/// One that is in use stays noted, and is tried again in the cache's turn.
final class BuildRemains: Sendable {
    /// A line may be a step's own words, so that many more could come than steps.
    private static let limit = 2 * Dockerfile.instructionLimit

    fileprivate struct State {
        var ids: [String] = []
        var isFromCache = false
    }

    private let parts: RunnerParts
    private let state = Mutex(State())

    init(_ parts: RunnerParts) { self.parts = parts }

    /// The engine prints ` ---> id` for each image that it has made, and `Using cache` before one that was there.
    func note(_ text: String) async {
        guard let id = state.withLock({ $0.step(in: text, limit: Self.limit) }) else { return }
        parts.loans.hold([Self.name(of: id)])
        // No build fails because this cannot be written: only a runner that is killed would miss it.
        try? await parts.queries.beginPull(Self.name(of: id), of: parts.identity, isBorrowed: true)
    }

    /// Runs `body`, and removes them when it has ended, however that was.
    func removing<Value: Sendable>(_ body: () async throws -> Value) async throws -> Value {
        let result: Result<Value, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        // Also when cancelled. It ends by itself: each call has its deadline.
        await Task { await remove() }.value
        return try result.get()
    }

    private func remove() async {
        let ids = state.withLock { $0.ids }
        parts.loans.release(ids.map(Self.name))
        do {
            try await Self.remove(ids, parts)
        } catch {
            // They stay noted.
            parts.logger.warning("images of a build's steps stay for now", metadata: ["error": "\(error)"])
        }
    }

    /// What is noted of builds that have ended: of a former process of this runner, and what was in use when it was tried.
    static func removeOnce(_ parts: RunnerParts) async throws {
        try await remove(try await parts.loans.unheld().compactMap(id), parts)
    }

    // MARK: - Names of loans

    private static let prefix = "build-step:"
    private static func name(of id: String) -> String { prefix + id }
    private static func id(of name: String) -> String? {
        name.hasPrefix(prefix) ? String(name.dropFirst(prefix.count)) : nil
    }

    /// Whether a loan is an image of a step, which has no name that it could be given back by.
    static func isStep(_ loan: String) -> Bool { loan.hasPrefix(prefix) }

    // MARK: - The engine

    /// What was made upon these, and upon that, in an order in which it was made.
    static func children(of ids: [String], among images: [ImageSummary]) -> [String] {
        var (found, level) = ([String](), Set(images.map(\.id).filter { id in ids.contains { $0.isShort(of: id) } }))
        while !level.isEmpty {
            let next = images.filter { $0.parentID.map(level.contains) ?? false }.map(\.id)
            found += next
            level = Set(next)
        }
        return found
    }

    /// What has a name, and what that was made upon: it goes with what has the name.
    static func somebodys(among images: [ImageSummary]) -> Set<String> {
        let parents = Dictionary(images.map { ($0.id, $0.parentID) }) { first, _ in first }
        var found: Set<String> = []
        for image in images where image.hasName {
            var next: String? = image.id
            while let id = next, found.insert(id).inserted { next = parents[id] ?? nil }
        }
        return found
    }

    /// The last first: the engine removes what is below an image with it. What is in use stays noted.
    private static func remove(_ ids: [String], _ parts: RunnerParts) async throws {
        guard !ids.isEmpty else { return }
        let images = try await parts.engine.listImages(isWithSteps: true)
        let kept = somebodys(among: images)
        let nobodys = ids.filter { id in !kept.contains(where: id.isShort) }
        let untold = children(of: nobodys, among: images).filter { child in !ids.contains { $0.isShort(of: child) } }
        for id in untold.reversed() { _ = try await removeUnnamed(id, parts) }
        for id in ids.reversed() {
            if nobodys.contains(id), try await !removeUnnamed(id, parts) { continue }
            try await parts.queries.endPull(name(of: id), of: parts.identity)
        }
    }

    /// Not by force: what has a name, a container or images above it is somebody's. False where it is still to be removed.
    private static func removeUnnamed(_ id: String, _ parts: RunnerParts) async throws -> Bool {
        do {
            let image = try await parts.engine.inspectImage(id)
            guard image.repositoryTags.isEmpty, image.repositoryDigests.isEmpty else { return true }
            try await parts.engine.removeImage(image.id)
            return true
        } catch let error as DockerError where error.kind == .notFound {
            // Gone with one above it.
            return true
        } catch let error as DockerError where error.kind == .conflict {
            return false
        }
    }
}

extension BuildRemains.State {
    /// The image that this line says was made, the first time that it does.
    fileprivate mutating func step(in text: String, limit: Int) -> String? {
        if text.hasPrefix(" ---> Using cache") {
            isFromCache = true
            return nil
        }
        guard let match = text.wholeMatch(of: #/ ---> ([0-9a-f]{12})\n/#) else { return nil }
        defer { isFromCache = false }
        let id = String(match.1)
        guard !isFromCache, ids.count < limit, !ids.contains(id) else { return nil }
        ids.append(id)
        return id
    }
}

extension ImageSummary {
    fileprivate var hasName: Bool { (repositoryTags + repositoryDigests).contains { !$0.contains("<none>") } }
}

extension String {
    /// Whether the whole id of an image begins so.
    fileprivate func isShort(of id: String) -> Bool { id.hasPrefix("sha256:\(self)") }
}
