package import NIOCore

/// Limits of the git calls.
package enum GitLimit {
    /// Longest that a call may take which reads and writes here only.
    package static let localDeadline = Duration.seconds(600)
    /// Longest that a call may take which talks to a remote. Users leave earlier by hanging up.
    package static let networkDeadline = Duration.seconds(2 * 3600)
    /// A transfer over HTTP that brings nothing for so long is given up, in seconds.
    package static let stallSeconds = 120
    /// Between asking git to end, so that it removes its lock files and half a clone, and killing all that it started.
    package static let terminationGrace = TimeAmount.seconds(3)
    /// For output that a process which a hook left behind keeps open after git itself ended.
    package static let pipeGrace = TimeAmount.seconds(1)

    /// Most of git's standard output that is read.
    package static let outputBytes = 16 << 20
    /// What is kept of the beginning, and of the end, of its standard error.
    package static let errorBytes = 16 << 10
    /// Most of git's own words that an error message carries.
    package static let quotedBytes = 2 << 10

    /// Files in one status.
    package static let statusFiles = 50_000
    /// Commits in one history, the newest.
    package static let historyCommits = 10_000
    /// Paths that one call may name.
    package static let paths = 100_000
    package static let depth = 1_000_000_000

    package static let refNameBytes = 512
    package static let revisionBytes = 1024
    package static let urlBytes = 4096
    package static let identityBytes = 512
    package static let credentialBytes = 8 << 10
    package static let messageBytes = 1 << 20
    package static let configKeyBytes = 1024
    /// The kernel takes arguments up to 128 KiB.
    package static let configValueBytes = 64 << 10
}
