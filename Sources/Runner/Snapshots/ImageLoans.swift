package import Docker
package import Domain
package import Logging
package import Store
import Synchronization

/// Names of images that this host has only for the time of making snapshots from them. Each is noted in the database before it
/// is pulled, so that also a runner that was killed gives back what it had borrowed.
package final class ImageLoans: Sendable {
    private let engine: DockerEngine
    private let queries: RunnerQueries
    private let runner: RunnerID
    private let logger: Logger
    /// How many jobs are at a loan.
    private let users = Mutex<[String: Int]>([:])

    package init(engine: DockerEngine, queries: RunnerQueries, runner: RunnerID, logger: Logger) {
        self.engine = engine
        self.queries = queries
        self.runner = runner
        self.logger = logger
    }

    /// Runs `body`, which may pull `image`; gives the name back afterwards if this host did not have it before.
    func borrowing<Value>(_ image: String, _ body: () async throws -> Value) async throws -> Value {
        hold([image])
        do {
            if try await !has(image) { try await queries.beginPull(image, of: runner, isBorrowed: true) }
            let value = try await body()
            await end(image)
            return value
        } catch {
            await end(image)
            throw error
        }
    }

    /// Gives back what nobody is at: after a restart, or where giving back failed.
    package func giveBackOnce() async throws {
        for image in try await unheld() where !BuildRemains.isStep(image) { try await giveBack(image) }
    }

    /// What is noted, and nobody is at.
    func unheld() async throws -> [String] {
        try await queries.borrowedImages(of: runner).filter { !isHeld($0) }
    }

    /// Somebody is at these: they are not given back meanwhile. Before they are noted.
    func hold(_ loans: [String]) {
        users.withLock { users in for loan in loans { users[loan, default: 0] += 1 } }
    }

    func release(_ loans: [String]) {
        users.withLock { users in
            for loan in loans {
                users[loan, default: 1] -= 1
                if users[loan] == 0 { users[loan] = nil }
            }
        }
    }

    private func isHeld(_ loan: String) -> Bool { users.withLock { $0[loan] } != nil }

    private func end(_ image: String) async {
        release([image])
        guard !isHeld(image) else { return }
        do {
            if try await queries.borrowedImages(of: runner).contains(image) { try await giveBack(image) }
        } catch {
            // The row stays, and with it the wish to.
            if !Task.isCancelled {
                logger.warning(
                    "a borrowed image is given back later",
                    metadata: ["image.name": "\(image)", "error": "\(error)"]
                )
            }
        }
    }

    private func giveBack(_ image: String) async throws {
        guard !isHeld(image) else { return }
        do {
            try await engine.removeImage(image)
        } catch let error as DockerError where error.kind == .notFound || error.kind == .conflict {
            // Gone, or a sandbox of the operator's runs on it: then it is no loan any more.
        }
        try await queries.endPull(image, of: runner)
    }

    private func has(_ image: String) async throws -> Bool {
        do {
            _ = try await engine.inspectImage(image)
            return true
        } catch let error as DockerError where error.kind == .notFound {
            return false
        }
    }
}
