import Domain
import NIOCore
import Synchronization

/// Who is connected: counts against the limits, and the channels that a shutdown waits for.
final class TunnelRoster: Sendable {
    private struct State {
        var channels: [ObjectIdentifier: any Channel] = [:]
        var perSandbox: [SandboxID: Int] = [:]
    }

    private let state = Mutex(State())

    /// Enters a connection; false where `limit` are open already.
    func admit(_ channel: any Channel, limit: Int) -> Bool {
        state.withLock { state in
            guard state.channels.count < limit else { return false }
            state.channels[ObjectIdentifier(channel)] = channel
            return true
        }
    }

    func leave(_ channel: any Channel) {
        _ = state.withLock { $0.channels.removeValue(forKey: ObjectIdentifier(channel)) }
    }

    /// Books a tunnel to `sandbox`; false where `limit` are open already. ``release(_:)`` gives it back.
    func book(_ sandbox: SandboxID, limit: Int) -> Bool {
        state.withLock { state in
            guard state.perSandbox[sandbox, default: 0] < limit else { return false }
            state.perSandbox[sandbox, default: 0] += 1
            return true
        }
    }

    func release(_ sandbox: SandboxID) {
        state.withLock { state in
            guard let count = state.perSandbox[sandbox] else { return }
            state.perSandbox[sandbox] = count > 1 ? count - 1 : nil
        }
    }

    var channels: [any Channel] { state.withLock { Array($0.channels.values) } }
    var tunnels: Int { state.withLock { $0.perSandbox.values.reduce(0, +) } }
}
