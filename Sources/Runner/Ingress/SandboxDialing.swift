package import Domain

/// Where a sandbox's processes are on this host.
package struct SandboxTarget: Sendable, Hashable {
    /// The process whose network namespace is dialled: the container's first process, Docker's `State.Pid`.
    package let pid: Int32
    /// Text that the process's control group must contain: the container's id.
    ///
    /// It is checked on the same open process as the namespace is taken from, so a process number that was given away
    /// is refused instead of followed into another sandbox.
    package let cgroupFragment: String

    package init(pid: Int32, cgroupFragment: String) {
        self.pid = pid
        self.cgroupFragment = cgroupFragment
    }
}

/// What the ingress asks of the runner: which process is a sandbox, now.
///
/// Asked once for each tunnel, never for each request, and always afresh: the answer is not kept.
package protocol SandboxDialing: Sendable {
    /// The process of `sandbox` under placement `epoch`.
    ///
    /// Throws ``IngressRefusal`` where there is none: `notHere`, `staleEpoch` or `notRunning`.
    func target(of sandbox: SandboxID, epoch: Int) async throws -> SandboxTarget
}
