import Docker
import Domain
import Logging
import Store

/// What the daemon of a sandbox is asked and told.
extension SandboxApplier {
    private static let firstPollInterval: Duration = .milliseconds(4)
    private static let pollIntervalLimit: Duration = .milliseconds(50)
    private static let pollsBetweenLooks = 10

    /// The daemon answers when this returns. Throws `endedWhileStarting` when the container ended, `daemonSilent` at the deadline.
    func awaitDaemon(_ desired: AssignedSandbox) async throws -> Findings {
        let deadline = ContinuousClock.now + parts.pace.daemonDeadline
        var interval = Self.firstPollInterval
        var container = try await inspectRunning(desired)
        var polls = 0
        while true {
            do {
                let version = try await ask(desired, container)
                let told = desired.recordsTerminals
                return Findings(container: container, daemonVersion: version, recordsTerminals: told)
            } catch {
                try Task.checkCancellation()
                guard ContinuousClock.now < deadline else { throw await silence(desired, container, error) }
            }
            try await Task.sleep(for: interval)
            interval = min(interval * 2, Self.pollIntervalLimit)
            polls += 1
            if polls % Self.pollsBetweenLooks == 0 { container = try await inspectRunning(desired) }
        }
    }

    /// One attempt, which may fail: what runs is not to be ended for a setting. The row shows that it was not told, so that the
    /// next survey tries again.
    func tellDaemon(_ desired: AssignedSandbox) async throws -> Findings {
        let container = try await inspectRunning(desired)
        var learned = Findings(container: container)
        do {
            learned.daemonVersion = try await ask(desired, container)
            learned.recordsTerminals = desired.recordsTerminals
        } catch {
            try Task.checkCancellation()
            parts.logger.warning(
                "the sandbox's daemon was not told its settings",
                metadata: ["sandbox.id": "\(desired.id)", "error": "\(error)"]
            )
        }
        return learned
    }

    private func ask(_ desired: AssignedSandbox, _ container: ContainerInspection) async throws -> String {
        guard let target = container.target else { throw RunnerError(.daemonSilent, "the container has no process") }
        return try await parts.probe.greet(
            desired.id,
            at: target,
            DaemonGreeting(
                token: desired.toolboxToken,
                diskBytes: await parts.diskBytes(of: container),
                recordsTerminals: desired.recordsTerminals
            )
        )
    }

    func inspectRunning(_ desired: AssignedSandbox) async throws -> ContainerInspection {
        let found = try await inspect(desired)
        if let run = found.run { parts.crashes.noteRun(run, of: desired.id) }
        guard found.state.status == .running else {
            throw RunnerError(
                .endedWhileStarting,
                "container \(found.id) is \(found.state.status.rawValue), exit code \(found.state.exitCode)"
            )
        }
        return found
    }

    private func silence(_ desired: AssignedSandbox, _ container: ContainerInspection, _ last: any Error) async
        -> RunnerError
    {
        let tail = await SandboxObserver(parts: parts).logTail(container.id)
        return RunnerError(
            .daemonSilent,
            "the sandbox's daemon did not answer within \(parts.pace.daemonDeadline.components.seconds) s of its start: \(last)\(tail); "
                + "look whether the image's entrypoint takes port \(DaemonProbe.port), then start it again"
        )
    }
}
