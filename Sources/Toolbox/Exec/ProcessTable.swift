import Glibc
import HTTPTypes
package import NIOCore
import Synchronization

/// All trees of processes that the daemon started and that still have a living process.
package final class ProcessTable: Sendable {
    private struct State {
        var trees: [ObjectIdentifier: ProcessTree] = [:]
        var closed = false
    }

    private let state = Mutex(State())
    private let launcher = ProgramLauncher()

    package init() {}

    /// Starts a program; the table knows it until its last descendant ended.
    /// - Throws: `LaunchFailure`, or 503 once the daemon is stopping.
    package func launch(_ program: ProgramSpecification, on loop: any EventLoop) async throws -> ProcessTree {
        guard !state.withLock({ $0.closed }) else { throw Self.stopping }
        let tree = try await launcher.launch(program, on: loop)
        let key = ObjectIdentifier(tree)
        let closed = state.withLock { state in
            state.trees[key] = tree
            return state.closed
        }
        tree.gone.whenComplete { [self] _ in state.withLock { $0.trees[key] = nil } }
        if closed { tree.kill() }
        return tree
    }

    /// How many trees there are.
    package var count: Int { state.withLock { $0.trees.count } }

    /// Refuses new programs, asks all groups to end, kills what is left after `grace`.
    package func stop(grace: Duration) async {
        let trees = state.withLock { state in
            state.closed = true
            return Array(state.trees.values)
        }
        for tree in trees {
            tree.signal(SIGTERM)
            // Interactive shells ignore SIGTERM. A hang-up ends them, and they tell their jobs.
            if tree.hasTerminal { tree.signal(SIGHUP) }
        }
        if await waitUntilEmpty(for: grace) { return }
        for tree in state.withLock({ Array($0.trees.values) }) { tree.kill() }
        _ = await waitUntilEmpty(for: .seconds(2))
    }

    /// Polls, because stopping happens once and the trees end within milliseconds as a rule.
    private func waitUntilEmpty(for limit: Duration) async -> Bool {
        let deadline = ContinuousClock.now + limit
        while count > 0 {
            guard ContinuousClock.now < deadline, (try? await Task.sleep(for: .milliseconds(5))) != nil else {
                return false
            }
        }
        return true
    }

    private static let stopping = ToolboxError(
        .serviceUnavailable,
        "INTERNAL_SERVER_ERROR",
        "the sandbox is stopping and starts no more programs"
    )
}
