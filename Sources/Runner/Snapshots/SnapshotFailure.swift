import Docker
package import Domain
package import Store

#if canImport(Glibc)
    import Glibc
#endif

/// The steps of making a snapshot's image.
package enum SnapshotStep: String, Sendable, Hashable, CaseIterable {
    /// From the registry that its name says, onto this host's engine.
    case pull
    /// From a Dockerfile, by this host's engine.
    case build
    /// The files of a sandbox, from its frozen copy.
    case read
    /// What was read, into this host's engine.
    case load
    /// Whether sandboxes can start from it.
    case inspect
    /// Into the internal registry.
    case push
}

/// What becomes of a job that failed.
package enum SnapshotFate: Sendable, Hashable {
    case retry(after: Duration)
    case final
}

/// What is wrong with an image that was pulled.
package struct UnusableImage: Error, Hashable, CustomStringConvertible {
    package let description: String
    package init(description: String) { self.description = description }
}

extension SnapshotFailureCause {
    package init(_ error: any Error, step: SnapshotStep) {
        switch error {
        case let error as DockerError:
            switch error.kind {
            case .unavailable, .timeout: self = .ours
            case .noSpace: self = .disk
            case .badRequest, .unauthorized, .notFound, .conflict, .server:
                // What a Dockerfile is at fault for is a `BuildFailure`.
                self = step == .pull ? .theirs : .ours
            }
        case let error as CaptureTrouble where error.prospect == .lasting: self = .disk
        default: self = error.isFinal ? .theirs : .ours
        }
    }
}

/// Decides whether a failure may pass by itself. `failures` counts those of the same cause before it.
///
/// What is ours (the engine, the internal registry) is waited for until the job's deadline. What is the user's (a name, a login,
/// a registry of his) has failed after a few tries, since somebody waits for the answer.
package func judgeSnapshotFailure(_ error: any Error, step: SnapshotStep, failures: Int) -> SnapshotFate {
    switch SnapshotFailureCause(error, step: step) {
    case .ours: patience(failures)
    // Another runner may have room, and this one makes some.
    case .disk: failures < fullDiskTriesLimit - 1 ? patience(failures) : .final
    case .theirs:
        error.isFinal || failures >= strangersTriesLimit - 1 ? .final : .retry(after: .seconds(1 << failures))
    }
}

/// The same for a capture. What holds its sandbox up is not tried for an hour; a backup, for which nobody waits, is.
package func judgeCaptureFailure(_ error: any Error, step: SnapshotStep, failures: Int, for purpose: CapturePurpose)
    -> SnapshotFate
{
    if purpose != .backup, failures >= heldUpTriesLimit - 1 { return .final }
    switch prospect(of: error, step) {
    case .passing: return judgeSnapshotFailure(error, step: step, failures: failures)
    case .lasting where purpose == .backup: return .retry(after: lastingPause)
    case .lasting, .doubtful:
        return failures < strangersTriesLimit - 1 ? .retry(after: .seconds(2 << failures)) : .final
    }
}

/// Before what only somebody's doing ends is tried again: each try writes all that it can.
package let lastingPause: Duration = .seconds(300)

private func prospect(of error: any Error, _ step: SnapshotStep) -> CaptureTrouble.Prospect {
    switch error {
    case let error as CaptureTrouble: error.prospect
    case let error as DockerError where error.kind == .noSpace: .lasting
    // The container, or the image, went away meanwhile.
    case let error as DockerError where error.kind == .notFound && step != .push: .doubtful
    default: .passing
    }
}

/// How often a capture is tried that its sandbox's owner waits for: about two minutes.
package let heldUpTriesLimit = 7

/// How often a job is tried while disks are full: for some seconds.
package let fullDiskTriesLimit = 3

/// How often a registry of a user's is asked that does not answer, or not as it should.
package let strangersTriesLimit = 3

/// 2, 4, 8, 16, then 30 seconds.
private func patience(_ failures: Int) -> SnapshotFate { .retry(after: .seconds(min(2 << min(failures, 4), 30))) }

extension Error {
    /// What was asked for is at fault, or its registry has answered and would answer the same again.
    fileprivate var isFinal: Bool {
        switch self {
        case let error as DockerError: [.badRequest, .unauthorized, .notFound].contains(error.kind)
        default:
            self is BuildFailure || self is UnusableImage || self is ImageName.Malformed || self is SecretBox.Failure
                || self is CaptureRefused
        }
    }
}

/// The reason as the snapshot's owner reads it: the step, what happened, what to do, and the last lines before it.
///
/// - Parameter disk: of this runner; told where that is the reason.
func snapshotReason(_ error: any Error, step: SnapshotStep, image: String, lines: [String], disk: DiskUsage? = nil)
    -> String
{
    let said = lines.isEmpty ? "" : "; before that: \(lines.joined(separator: " | "))"
    let subject = image.isEmpty ? "" : ", image \(image)"
    return String("step \(step.rawValue)\(subject): \(words(error, disk))\(said)".prefix(snapshotReasonLimit))
}

/// The longest reason that is written, in characters.
let snapshotReasonLimit = 2000

private func words(_ error: any Error, _ disk: DiskUsage?) -> String {
    guard let error = error as? DockerError else { return "\(error)" }
    let advice =
        switch error.kind {
        case .noSpace:
            fullDiskAdvice(disk)
        case .unauthorized:
            "the registry refuses: add a registry with the right login (POST /docker-registry), or correct it, and activate the snapshot again"
        case .notFound:
            "the registry does not have it: correct its name and tag"
        case .badRequest, .conflict, .unavailable, .timeout, .server:
            "see whether the registry can be reached from the runner, and activate the snapshot again"
        }
    return "\(error.message) (\(advice))"
}

private func fullDiskAdvice(_ disk: DiskUsage?) -> String {
    "\(fullDisk(disk)): remove images or sandboxes there, or give it more (the operator), and try again"
}

/// With numbers, where they are known.
func fullDisk(_ usage: DiskUsage?) -> String {
    "the runner's disk is full" + (usage.map { " (\($0.path) is \($0))" } ?? "")
}
