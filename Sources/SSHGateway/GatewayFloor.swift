import Domain
import Limiting
import Logging
import Proxy
import SSHServing
import Store
import Synchronization

/// What all connections share, and the list of them.
final class GatewayFloor: Sendable {
    private struct State {
        var mailboxes: [ObjectIdentifier: Mailbox<GatewayNews>] = [:]
        /// What those that have logged in were admitted to.
        var admissions: [ObjectIdentifier: SSHAdmission] = [:]
        var isClosed = false
    }

    let limits: GatewayLimits
    let hostKey: KeyPair
    /// What the gateway shows the sandboxes' servers; made anew with each start, and let in for a minute each time.
    let clientKey: KeyPair
    let desk: ErrandDesk
    let failures: FailedAttempts
    let activity: ActivityReporter
    let log: Logger
    private let places: PlaceCounts<Place>
    private let sandboxes: PlaceCounts<SandboxID>
    private let state = Mutex(State())

    init(
        limits: GatewayLimits,
        hostKey: KeyPair,
        clientKey: KeyPair,
        desk: ErrandDesk,
        activity: ActivityReporter,
        log: Logger
    ) {
        (self.limits, self.hostKey, self.clientKey) = (limits, hostKey, clientKey)
        (self.desk, self.activity, self.log) = (desk, activity, log)
        failures = FailedAttempts(limit: limits.refusalsPerAddressLimit, window: limits.refusalWindow)
        places = PlaceCounts(limit: limits.connectionsPerAddressLimit)
        sandboxes = PlaceCounts(limit: limits.connectionsPerSandboxLimit)
    }

    /// Connections at present.
    var count: Int { state.withLock { $0.mailboxes.count } }

    /// Lets a connection begin; false where there are too many. ``leave(_:from:)`` gives its place back.
    func admit(_ mailbox: Mailbox<GatewayNews>, from place: Place) -> Bool {
        guard places.admit(place) else { return false }
        let isAdmitted = state.withLock { state in
            guard !state.isClosed, state.mailboxes.count < limits.connectionsLimit else { return false }
            state.mailboxes[ObjectIdentifier(mailbox)] = mailbox
            return true
        }
        if !isAdmitted { places.leave(place) }
        return isAdmitted
    }

    /// Notes what a connection was admitted to, so that it hears of changes; false where the sandbox has too many.
    func enter(_ admission: SSHAdmission, _ mailbox: Mailbox<GatewayNews>) -> Bool {
        guard sandboxes.admit(admission.sandbox) else { return false }
        state.withLock { $0.admissions[ObjectIdentifier(mailbox)] = admission }
        return true
    }

    func leave(_ mailbox: Mailbox<GatewayNews>, from place: Place) {
        let admission = state.withLock { state in
            state.mailboxes[ObjectIdentifier(mailbox)] = nil
            return state.admissions.removeValue(forKey: ObjectIdentifier(mailbox))
        }
        if let admission { sandboxes.leave(admission.sandbox) }
        places.leave(place)
    }

    /// Has everybody whom a change concerns look again.
    func apply(_ change: SSHAccessChange) {
        let concerned = state.withLock { state in
            state.admissions.compactMap { entry in
                entry.value.isConcerned(by: change) ? state.mailboxes[entry.key] : nil
            }
        }
        for mailbox in concerned { mailbox.post(.recheck) }
    }

    /// Lets nobody in any more.
    func close() { state.withLock { $0.isClosed = true } }

    /// Ends all connections with a word.
    func endAll(_ word: String) {
        for mailbox in state.withLock({ Array($0.mailboxes.values) }) { mailbox.post(.end(word)) }
    }
}

extension SSHAdmission {
    fileprivate func isConcerned(by change: SSHAccessChange) -> Bool {
        switch change {
        case .access(let id): access == id
        case .sandbox(let id): sandbox == id
        case .organization(let id): organization == id
        case .resync: true
        }
    }
}
