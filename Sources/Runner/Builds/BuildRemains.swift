import Docker
import Domain
import Logging
import Synchronization

/// Images without a name that the steps of one build have left in the engine: all of a build that failed, and those of stages that
/// are no part of the image. No later build would use them, as steps are taken from finished images only.
final class BuildRemains: Sendable {
    /// A line may be a step's own words, so that many more could come than steps.
    private static let limit = 2 * Dockerfile.instructionLimit

    private struct State {
        var ids: [String] = []
        var isFromCache = false
    }

    private let parts: RunnerParts
    private let state = Mutex(State())

    init(_ parts: RunnerParts) { self.parts = parts }

    /// The engine prints ` ---> id` for each image that it has made, and `Using cache` before one that was there.
    func note(_ text: String) {
        state.withLock { state in
            if text.hasPrefix(" ---> Using cache") { return state.isFromCache = true }
            guard let match = text.wholeMatch(of: #/ ---> ([0-9a-f]{12})\n/#) else { return }
            if !state.isFromCache, state.ids.count < Self.limit { state.ids.append(String(match.1)) }
            state.isFromCache = false
        }
    }

    /// Runs `body`, and removes them when it has ended, however that was.
    func removing<Value: Sendable>(_ body: () async throws -> Value) async throws -> Value {
        let result: Result<Value, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        // Also when cancelled. It ends by itself: each call has its deadline.
        await Task { await remove() }.value
        return try result.get()
    }

    /// The last first: the engine removes what is below an image with it.
    private func remove() async {
        for id in state.withLock({ $0.ids.reversed() }) {
            do {
                try await removeUnnamed(id)
            } catch {
                return parts.logger.warning(
                    "images of a build's steps stay",
                    metadata: ["image.id": "\(id)", "error": "\(error)"]
                )
            }
        }
    }

    /// Not by force: what has a name, a container or images above it is somebody's.
    private func removeUnnamed(_ id: String) async throws {
        do {
            let image = try await parts.engine.inspectImage(id)
            guard image.repositoryTags.isEmpty, image.repositoryDigests.isEmpty else { return }
            try await parts.engine.removeImage(image.id)
        } catch let error as DockerError where error.kind == .notFound || error.kind == .conflict {
            // Gone with one above it, or in use.
        }
    }
}
