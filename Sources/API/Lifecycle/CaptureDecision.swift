import Domain
import Store

/// What is done about a request that needs a sandbox's files, decided from the sandbox as it stands. Pure: every state is written.
enum CaptureDecision: Sendable {
    case answerAsItIs
    case request
    case refuse(APIError)
}

extension CaptureDecision {
    static func snapshot(_ sandbox: SandboxRecord) -> CaptureDecision {
        switch sandbox.state {
        case .started, .stopped: .request
        case .creating, .restoring, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot,
            .archiving,
            .resizing, .snapshotting, .forking, .pausing, .resuming:
            .refuse(LifecycleDecision.busy(sandbox, "made a snapshot of"))
        case .unknown: .refuse(unreachable(sandbox, "made a snapshot of"))
        case .archived, .paused: .refuse(LifecycleDecision.wrongState(sandbox, "made a snapshot of", "Start it first"))
        case .error, .buildFailed:
            .refuse(LifecycleDecision.wrongState(sandbox, "made a snapshot of", "Recover it first"))
        case .destroying, .destroyed: .refuse(LifecycleDecision.beingDestroyed(sandbox))
        }
    }

    /// A sandbox may be forked again while it is being forked: both children start from what it is then.
    static func fork(_ sandbox: SandboxRecord) -> CaptureDecision {
        switch sandbox.state {
        case .started, .stopped, .forking: .request
        case .creating, .restoring, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot,
            .archiving,
            .resizing, .snapshotting, .pausing, .resuming:
            .refuse(LifecycleDecision.busy(sandbox, "forked"))
        case .unknown: .refuse(unreachable(sandbox, "forked"))
        case .archived, .paused: .refuse(LifecycleDecision.wrongState(sandbox, "forked", "Start it first"))
        case .error, .buildFailed: .refuse(LifecycleDecision.wrongState(sandbox, "forked", "Recover it first"))
        case .destroying, .destroyed: .refuse(LifecycleDecision.beingDestroyed(sandbox))
        }
    }

    /// An archived sandbox is its backup.
    static func backup(_ sandbox: SandboxRecord) -> CaptureDecision {
        switch sandbox.state {
        case .started, .stopped, .snapshotting, .forking: .request
        case .archived, .archiving: .answerAsItIs
        case .creating, .restoring, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot, .resizing,
            .pausing, .resuming:
            .refuse(LifecycleDecision.busy(sandbox, "backed up"))
        case .unknown: .refuse(unreachable(sandbox, "backed up"))
        case .paused: .refuse(LifecycleDecision.wrongState(sandbox, "backed up", "Start or stop it first"))
        case .error, .buildFailed: .refuse(LifecycleDecision.wrongState(sandbox, "backed up", "Recover it first"))
        case .destroying, .destroyed: .refuse(LifecycleDecision.beingDestroyed(sandbox))
        }
    }

    private static func unreachable(_ sandbox: SandboxRecord, _ participle: String) -> APIError {
        .conflict("the sandbox's runner is unreachable at the moment; it cannot be \(participle) before that is back")
    }
}

extension LifecycleDecision {
    /// What is archived runs no more: a backup of it is all that is kept.
    static func archive(_ sandbox: SandboxRecord) -> LifecycleDecision {
        switch sandbox.state {
        case .stopped:
            return sandbox.isEphemeral
                ? .refuse(
                    .badRequest(
                        "an ephemeral sandbox (autoDeleteInterval 0) cannot be archived. Set another interval first"
                    )
                ) : .apply(.archive)
        case .archived, .archiving: return .answerAsItIs
        case .started, .paused: return .refuse(wrongState(sandbox, "archived", "Stop it first"))
        case .creating, .restoring, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot, .resizing,
            .snapshotting, .forking, .pausing, .resuming:
            return .refuse(busy(sandbox, "archived"))
        case .unknown:
            return .refuse(
                .conflict(
                    "the sandbox's runner is unreachable at the moment; it cannot be archived before that is back"
                )
            )
        case .error, .buildFailed: return .refuse(wrongState(sandbox, "archived", "Recover and stop it first"))
        case .destroying, .destroyed: return .refuse(beingDestroyed(sandbox))
        }
    }

    static func parentOfOthers(_ sandbox: SandboxRecord) -> APIError {
        .badRequest("sandboxes that were forked from this one live still (GET …/forks). Delete those first")
    }
}
