/// How often the sandbox ran into a limit since it was started, as the kernel counts it.
package struct LimitsReached: Sendable, Equatable {
    /// Processes that the kernel killed because there was no memory left.
    package var memoryKills = 0
    /// Processes and threads that were not made because there were as many as there may be.
    package var refusedForks = 0

    package init() {}
}

extension ControlGroupFiles {
    /// What was counted until now; zeros where the kernel does not count (version 1 before Linux 4.13). Two reads of kernel
    /// memory: cheap enough for before and after each program.
    package func limitsReached() -> LimitsReached {
        var reached = LimitsReached()
        reached.memoryKills = field("oom_kill", of: isUnified ? "memory.events" : "memory/memory.oom_control") ?? 0
        reached.refusedForks = field("max", of: isUnified ? "pids.events" : "pids/pids.events") ?? 0
        return reached
    }

    /// What of the sandbox's limits was reached since, in words: why a program may have failed. The kernel counts for the
    /// sandbox and not for a program, so this says only what it knows. nil if there was nothing.
    package func reasons(since before: LimitsReached) -> String? {
        let now = limitsReached()
        var reasons: [String] = []
        let kills = now.memoryKills - before.memoryKills
        if kills > 0 {
            let limit = "the limit is \(memory().total >> 20) MiB of memory"
            reasons.append(
                "out of memory: while this ran, the kernel killed \(kills) of the sandbox's processes; \(limit)"
            )
        }
        let refused = now.refusedForks - before.refusedForks
        if refused > 0 {
            let limit = processLimit().map { "the limit is \($0) at a time" } ?? "there is a limit"
            reasons.append(
                "too many processes: while this ran, \(refused) processes or threads of the sandbox were refused; \(limit)"
            )
        }
        return reasons.isEmpty ? nil : reasons.joined(separator: "; ")
    }
}
