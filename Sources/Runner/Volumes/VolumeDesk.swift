package import Domain
import Synchronization

/// Where passes of sandboxes ask for volumes, and passes of volumes learn who waits.
package final class VolumeDesk: Sendable {
    private struct State {
        var waiting: [VolumeID: Set<SandboxID>] = [:]
        /// Why a volume could not be mounted, until who waited has been told.
        var troubles: [VolumeID: (reason: String, untold: Set<SandboxID>)] = [:]
    }

    private let state = Mutex(State())
    /// Volumes to look at. Only wakes; bounded, because a lost wake costs a resync's time and nothing else.
    let wakes: AsyncStream<VolumeID>
    private let wake: AsyncStream<VolumeID>.Continuation

    private static let wakesLimit = 4096

    package init() {
        (wakes, wake) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(Self.wakesLimit))
    }

    /// The volume is not mounted and `sandbox` needs it: it is woken when that has changed. Throws if that was tried for it and
    /// failed; the next call tries again.
    func want(_ volume: VolumeID, for sandbox: SandboxID) throws {
        let trouble = state.withLock { state -> String? in
            if var known = state.troubles[volume], known.untold.remove(sandbox) != nil {
                state.troubles[volume] = known.untold.isEmpty ? nil : known
                return known.reason
            }
            state.waiting[volume, default: []].insert(sandbox)
            return nil
        }
        if let trouble { throw RunnerError(.volume, trouble) }
        wake.yield(volume)
    }

    /// Something about the volume changed.
    func look(at volume: VolumeID) { wake.yield(volume) }

    func isWanted(_ volume: VolumeID) -> Bool { state.withLock { $0.waiting[volume]?.isEmpty == false } }

    /// It is mounted, or could not be. Who waited is to be woken.
    func settle(_ volume: VolumeID, trouble: String? = nil) -> Set<SandboxID> {
        state.withLock { state in
            let waiting = state.waiting.removeValue(forKey: volume) ?? []
            state.troubles[volume] = trouble.flatMap { waiting.isEmpty ? nil : ($0, waiting) }
            return waiting
        }
    }

    /// `sandbox` waits for nothing any more.
    package func forget(_ sandbox: SandboxID) {
        state.withLock { state in
            for volume in state.waiting.keys { state.waiting[volume]?.remove(sandbox) }
            for volume in state.troubles.keys { state.troubles[volume]?.untold.remove(sandbox) }
        }
    }
}
