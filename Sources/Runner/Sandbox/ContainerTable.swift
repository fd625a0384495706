package import Domain
package import Docker
import FoundationEssentials
import Synchronization

/// Which process each sandbox is, for the ingress.
///
/// A cache of looks at the engine: any event about a container forgets its entry, a lost event stream forgets all, and what is
/// not known is looked up. The dialer itself checks that the process belongs to the container, so even an entry that is a
/// moment late leads nowhere else.
package final class ContainerTable: SandboxDialing {
    private struct Entry {
        /// The newest epoch seen here.
        var epoch: Int64
        /// The table's version at the last change; an answer asked for before is not kept.
        var version: UInt64
        var target: SandboxTarget?
    }

    private struct State {
        var entries: [SandboxID: Entry] = [:]
        var version: UInt64 = 0
        /// Answers asked for before this version are not kept.
        var clearedAt: UInt64 = 0
    }

    private let engine: DockerEngine
    private let runner: RunnerID
    private let state = Mutex(State())

    package init(engine: DockerEngine, runner: RunnerID) {
        self.engine = engine
        self.runner = runner
    }

    package func target(of sandbox: SandboxID, epoch: Int) async throws -> SandboxTarget {
        let key = PlacementKey(sandbox, epoch: Int64(epoch))
        let (entry, version) = state.withLock { ($0.entries[sandbox], $0.version) }
        if let entry, entry.epoch > key.epoch {
            throw IngressRefusal.staleEpoch(sandbox, asked: epoch, held: Int(entry.epoch))
        }
        if let entry, entry.epoch == key.epoch, let target = entry.target { return target }
        return try await lookUp(key, askedAt: version)
    }

    private func lookUp(_ key: PlacementKey, askedAt version: UInt64) async throws -> SandboxTarget {
        let found: ContainerInspection
        do {
            found = try await engine.inspectContainer(ContainerName.of(key.sandbox, epoch: key.epoch))
        } catch let error as DockerError where error.kind == .notFound {
            throw IngressRefusal.notHere(key.sandbox)
        } catch let error as DockerError {
            throw IngressRefusal.internal(error.description)
        }
        guard let owner = ContainerOwner(labels: found.labels), owner.runner == runner else {
            throw IngressRefusal.notHere(key.sandbox)
        }
        note(found, for: key, askedAt: version)
        guard let target = found.target else {
            throw IngressRefusal.notRunning(key.sandbox, state: found.state.status.rawValue)
        }
        return target
    }

    /// A container was looked at; `version` is ``version`` from before the look.
    package func note(_ found: ContainerInspection, for key: PlacementKey, askedAt version: UInt64) {
        state.withLock { state in
            guard version >= state.clearedAt else { return }
            if let entry = state.entries[key.sandbox], entry.version > version || entry.epoch > key.epoch { return }
            state.entries[key.sandbox] = Entry(epoch: key.epoch, version: version, target: found.target)
        }
    }

    /// To be read before a look whose answer is to be noted.
    package var version: UInt64 { state.withLock { $0.version } }

    /// Something happened to the sandbox's containers.
    package func forget(_ sandbox: SandboxID) {
        state.withLock { state in
            state.version += 1
            guard let epoch = state.entries[sandbox]?.epoch else { return }
            state.entries[sandbox] = Entry(epoch: epoch, version: state.version, target: nil)
        }
    }

    /// The sandbox is not here any more under this epoch.
    package func drop(_ key: PlacementKey) {
        state.withLock { state in
            state.version += 1
            if state.entries[key.sandbox]?.epoch == key.epoch { state.entries[key.sandbox] = nil }
        }
    }

    /// Events may have been missed.
    package func forgetAll() {
        state.withLock { state in
            state.version += 1
            state.clearedAt = state.version
            state.entries = [:]
        }
    }
}

extension ContainerInspection {
    /// Where to dial it; nil unless it runs.
    var target: SandboxTarget? {
        guard state.status == .running, state.processID > 0 else { return nil }
        return SandboxTarget(pid: state.processID, cgroupFragment: id)
    }

    /// When its present or last run began, exactly as it will read next time.
    var run: String? { state.startedAt.map { "\($0.timeIntervalSince1970)" } }
}
