import Glibc
import HTTPTypes
package import NIOCore
import Synchronization

/// All trees of processes that the daemon started and that still have a living process.
package final class ProcessTable: Sendable {
    private struct State {
        var trees: [ObjectIdentifier: ProcessTree] = [:]
        /// How many programs are on their way into `trees`.
        var launching = 0
        var closed = false

        var isEmpty: Bool { trees.isEmpty && launching == 0 }
    }

    private let state = Mutex(State())
    private let launcher = ProgramLauncher()

    package init() {}

    /// Starts a program; the table knows it until its last descendant ended.
    /// - Throws: `LaunchFailure`, or 503 once the daemon is stopping.
    package func launch(_ program: ProgramSpecification, on loop: any EventLoop) async throws -> ProcessTree {
        try state.withLock { state in
            guard !state.closed else { throw Self.stopping }
            state.launching += 1
        }
        let tree: ProcessTree
        do {
            tree = try await launcher.launch(program, on: loop)
        } catch {
            state.withLock { $0.launching -= 1 }
            throw error
        }
        let key = ObjectIdentifier(tree)
        let closed = state.withLock { state in
            state.launching -= 1
            state.trees[key] = tree
            return state.closed
        }
        tree.gone.whenComplete { [self] _ in state.withLock { $0.trees[key] = nil } }
        if closed { tree.kill() }
        return tree
    }

    /// How many trees there are.
    package var count: Int { state.withLock { $0.trees.count } }

    /// Whether programs are being ended because the daemon stops.
    var isStopping: Bool { state.withLock { $0.closed } }

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

    /// Waits also for what was being launched when the table closed. Polls, because stopping happens once and the trees
    /// end within milliseconds as a rule.
    private func waitUntilEmpty(for limit: Duration) async -> Bool {
        let deadline = ContinuousClock.now + limit
        while !state.withLock({ $0.isEmpty }) {
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
