import Domain
import Store

/// What is done about a request for another state, decided from the sandbox as it stands. Pure: every state is written.
enum LifecycleDecision: Sendable {
    /// It is so already, or on the way.
    case answerAsItIs
    case apply(SandboxChange)
    case refuse(APIError)
}

extension LifecycleDecision {
    static func start(_ sandbox: SandboxRecord) -> LifecycleDecision {
        switch sandbox.state {
        case .started, .starting, .resuming: return .answerAsItIs
        case .stopped, .archived, .archiving, .paused: return .apply(.start)
        case .creating, .restoring, .pullingSnapshot, .pendingBuild, .buildingSnapshot, .unknown:
            return sandbox.desiredState == .started ? .answerAsItIs : .apply(.start)
        case .stopping, .resizing, .snapshotting, .forking, .pausing: return .refuse(busy(sandbox, "started"))
        case .error, .buildFailed:
            let advice = sandbox.isRecoverable ? "Recover it (POST …/recover), or delete it" : "Delete it"
            return .refuse(wrongState(sandbox, "started", advice))
        case .destroying, .destroyed: return .refuse(beingDestroyed(sandbox))
        }
    }

    /// An ephemeral sandbox is destroyed where another is stopped. With force it may also be stopped on its way.
    static func stop(_ sandbox: SandboxRecord, force: Bool) -> LifecycleDecision {
        let change = sandbox.isEphemeral ? SandboxChange.destroy : .stop(force: force)
        if sandbox.isEphemeral, sandbox.hasForks { return .refuse(parentOfOthers(sandbox)) }
        switch sandbox.state {
        case .started, .paused: return .apply(change)
        case .stopped, .archived, .archiving: return .answerAsItIs
        case .stopping: return force ? .apply(change) : .answerAsItIs
        case .unknown: return sandbox.desiredState == .stopped && !force ? .answerAsItIs : .apply(change)
        case .creating, .restoring, .pullingSnapshot, .pendingBuild, .buildingSnapshot, .starting, .resuming, .pausing:
            return force ? .apply(change) : .refuse(busy(sandbox, "stopped"))
        case .resizing, .snapshotting, .forking: return .refuse(busy(sandbox, "stopped"))
        case .error, .buildFailed:
            return .refuse(wrongState(sandbox, "stopped", "It does not run. Recover or delete it"))
        case .destroying, .destroyed: return .refuse(beingDestroyed(sandbox))
        }
    }

    /// Legal in every state, any number of times; but not while children of it live.
    static func destroy(_ sandbox: SandboxRecord) -> LifecycleDecision {
        switch sandbox.state {
        case .destroying, .destroyed: .answerAsItIs
        case .creating, .restoring, .started, .stopped, .starting, .stopping, .error, .buildFailed, .pendingBuild,
            .buildingSnapshot, .unknown, .pullingSnapshot, .archived, .archiving, .resizing, .snapshotting, .forking,
            .pausing, .paused, .resuming:
            sandbox.hasForks ? .refuse(parentOfOthers(sandbox)) : .apply(.destroy)
        }
    }

    static func recover(_ sandbox: SandboxRecord) -> LifecycleDecision {
        switch sandbox.state {
        case .error:
            return sandbox.isRecoverable
                ? .apply(.recover) : .refuse(wrongState(sandbox, "recovered", "This error does not pass. Delete it"))
        case .destroying, .destroyed: return .refuse(beingDestroyed(sandbox))
        case .creating, .restoring, .started, .stopped, .starting, .stopping, .buildFailed, .pendingBuild,
            .buildingSnapshot,
            .unknown, .pullingSnapshot, .archived, .archiving, .resizing, .snapshotting, .forking, .pausing, .paused,
            .resuming:
            return .refuse(wrongState(sandbox, "recovered", "Only a sandbox in a recoverable error can be"))
        }
    }

    /// Running: processors and memory only grow. Stopped: disk only grows. After an error that may pass, any: the new size is a new
    /// try, and what its disk was too small for has no other way out.
    static func resize(_ sandbox: SandboxRecord, _ wanted: SandboxSize) -> LifecycleDecision {
        let new = SandboxSize(
            cpu: wanted.cpu ?? sandbox.cpu,
            memoryGib: wanted.memoryGib ?? sandbox.memoryGib,
            diskGib: wanted.diskGib ?? sandbox.diskGib
        )
        switch sandbox.state {
        case .started, .stopped: break
        case .error where sandbox.isRecoverable: break
        case .creating, .restoring, .starting, .stopping, .pendingBuild, .buildingSnapshot, .pullingSnapshot,
            .archiving,
            .resizing, .snapshotting, .forking, .pausing, .resuming:
            return .refuse(busy(sandbox, "resized"))
        case .unknown:
            return .refuse(.conflict("the sandbox's runner is unreachable at the moment; it cannot be resized"))
        case .error, .buildFailed, .archived, .paused:
            return .refuse(wrongState(sandbox, "resized", "Only a started, a stopped or a recoverable one can be"))
        case .destroying, .destroyed: return .refuse(beingDestroyed(sandbox))
        }
        let problems = new.problems(growingFrom: sandbox)
        guard problems.isEmpty else { return .refuse(.badRequest(problems.joined(separator: "; "))) }
        return .apply(.resize(cpu: new.cpu!, memoryGib: new.memoryGib!, diskGib: new.diskGib!))  // filled in above
    }

    static func busy(_ sandbox: SandboxRecord, _ participle: String) -> APIError {
        .conflict(
            "the sandbox is \(sandbox.state.rawValue): a state change is in progress. It can be \(participle) after it"
        )
    }

    static func wrongState(_ sandbox: SandboxRecord, _ participle: String, _ advice: String) -> APIError {
        let why = sandbox.errorReason.map { " (\($0))" } ?? ""
        return .badRequest("a sandbox in state \(sandbox.state.rawValue)\(why) cannot be \(participle). \(advice)")
    }

    static func beingDestroyed(_ sandbox: SandboxRecord) -> APIError {
        .conflict("the sandbox is being destroyed, which is final. Create a new one")
    }
}

/// Sizes asked for; nil leaves one as it is.
struct SandboxSize: Sendable {
    var cpu: Int?
    var memoryGib: Int?
    var diskGib: Int?

    fileprivate func problems(growingFrom old: SandboxRecord) -> [String] {
        let (cpu, memoryGib, diskGib) = (cpu ?? old.cpu, memoryGib ?? old.memoryGib, diskGib ?? old.diskGib)
        if (cpu, memoryGib, diskGib) == (old.cpu, old.memoryGib, old.diskGib) {
            return [
                "nothing would change: the sandbox has \(cpu) CPUs, \(memoryGib) GiB of memory and \(diskGib) GiB of disk"
            ]
        }
        var problems: [String] = []
        if diskGib < old.diskGib { problems.append("disk is \(diskGib), but can only grow from \(old.diskGib) GiB") }
        guard old.state == .started else { return problems }
        if cpu < old.cpu {
            problems.append("cpu is \(cpu), but can only grow from \(old.cpu) while the sandbox runs. Stop it first")
        }
        if memoryGib < old.memoryGib {
            problems.append(
                "memory is \(memoryGib), but can only grow from \(old.memoryGib) GiB while the sandbox runs. Stop it first"
            )
        }
        if diskGib > old.diskGib { problems.append("disk can only grow while the sandbox is stopped. Stop it first") }
        return problems
    }
}
