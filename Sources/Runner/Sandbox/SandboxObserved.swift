package import Store

/// What is on this host of one sandbox, as one look found it.
package struct SandboxObserved: Sendable, Hashable {
    /// The container of the placement's epoch.
    package var container: ContainerObservation = .absent
    /// Containers of the same sandbox under other epochs. Never the one above.
    package var stale: [StaleContainer] = []
    package var rules: RulesObservation = .absent

    package init() {}
}

/// A container as the plan sees it: each case asks for something else to be done.
package enum ContainerObservation: Sendable, Hashable {
    case absent
    /// Bears the name but not our labels: never touched.
    case foreign(id: String)
    /// Never started.
    case created(ContainerFacts)
    case running(ContainerFacts)
    /// Paused, but by no capture of this process: by one that died at it, or by somebody else.
    case paused(ContainerFacts)
    /// Restarting: by somebody else, since nothing of ours does that.
    case frozen(ContainerFacts)
    case exited(ContainerFacts, ContainerEnd)
    /// Dead, or its removal is under way.
    case unusable(ContainerFacts)

    /// Whether its files are gone.
    package var isLost: Bool {
        switch self {
        case .absent, .unusable: true
        case .foreign, .created, .running, .paused, .frozen, .exited: false
        }
    }
}

/// What is known of a container of ours.
package struct ContainerFacts: Sendable, Hashable {
    package var id: String
    /// When its present or last run began, in the engine's words; nil before the first.
    package var run: String?
    /// What its present run ran into; nil where that is not known, or not to be reported now.
    package var reached: LimitsReached?
    /// Whether memory, CPU, pids and disk are limited as wanted.
    package var hasWantedLimits = true
    /// Whether it was made to the specification that would be made today. Matters only before its first start.
    package var hasWantedShape = true

    package init(id: String, run: String? = nil) {
        self.id = id
        self.run = run
    }
}

/// How a container's last run ended.
package struct ContainerEnd: Sendable, Hashable {
    package enum Verdict: Sendable, Hashable {
        /// It ended because that was wanted, or long ago: starting it is nothing special.
        case expected
        /// It ended by itself while it should run; it may be started again after this time.
        case restart(after: Duration)
        /// It must not be started again before somebody asks for it.
        case giveUp(reason: String)
    }

    package var verdict: Verdict

    package init(_ verdict: Verdict) { self.verdict = verdict }
}

/// A container of an epoch that is over, or of none.
package struct StaleContainer: Sendable, Hashable {
    package var id: String
    package var epoch: Int64

    package init(id: String, epoch: Int64) {
        self.id = id
        self.epoch = epoch
    }
}

/// The firewall rules of the sandbox's address, as last read from the kernel.
package enum RulesObservation: Sendable, Hashable {
    case absent
    /// There are rules, of another policy than the wanted one.
    case differing
    case current
}
