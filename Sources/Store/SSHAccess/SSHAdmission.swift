package import Domain

/// What a token opens, as `admit_ssh` answers.
package struct SSHAdmission: Sendable, Hashable {
    package var access: SSHAccessID
    package var sandbox: SandboxID
    package var organization: OrganizationID
    /// How long it is good, from when the database was asked.
    package var timeLeft: Duration
    package var state: PublicState
    /// The way there; nil where no runner holds the sandbox.
    package var route: Route?

    package init(
        access: SSHAccessID,
        sandbox: SandboxID,
        organization: OrganizationID,
        timeLeft: Duration,
        state: PublicState,
        route: Route?
    ) {
        self.access = access
        self.sandbox = sandbox
        self.organization = organization
        self.timeLeft = timeLeft
        self.state = state
        self.route = route
    }
}

/// What was admitted and must be looked at again.
package enum SSHAccessChange: Sendable, Hashable {
    case access(SSHAccessID)
    case sandbox(SandboxID)
    case organization(OrganizationID)
    /// Messages may have been lost: all of it.
    case resync
}

/// Where a gateway asks who may enter.
package protocol SSHAccessSource: ActivitySink {
    /// What the token with this SHA-256 opens now, or nil where it opens nothing.
    func admission(tokenHash: [UInt8]) async throws -> SSHAdmission?

    /// Calls `handle` for each change, `.resync` first and after every loss, until the task is cancelled.
    func followChanges(_ handle: @Sendable (SSHAccessChange) -> Void) async throws
}
