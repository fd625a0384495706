import Synchronization

/// How many connections are open, in all and from each address.
final class AddressCounts: Sendable {
    private struct State {
        var total = 0
        var perAddress: [String: Int] = [:]
    }

    private let state = Mutex(State())

    /// Enters a connection; false where a limit is reached. ``leave(_:)`` gives it back.
    func admit(_ address: String, limits: ProxyLimits) -> Bool {
        state.withLock { state in
            guard state.total < limits.connectionsLimit,
                state.perAddress[address, default: 0] < limits.connectionsPerAddressLimit
            else { return false }
            state.total += 1
            state.perAddress[address, default: 0] += 1
            return true
        }
    }

    func leave(_ address: String) {
        state.withLock { state in
            state.total -= 1
            let count = state.perAddress[address, default: 1] - 1
            state.perAddress[address] = count > 0 ? count : nil
        }
    }

    var total: Int { state.withLock { $0.total } }
}
