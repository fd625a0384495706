import SSHServing

/// What a connection's thread is told by others.
enum ConnectionNews: Sendable {
    /// A program of the session with this number runs.
    case launched(Int, ProcessTree)
    /// It cannot: why.
    case notLaunched(Int, String)
    /// It ended.
    case exited(Int, ProgramExit)
    /// The addresses of a name that was looked up, none if it has none.
    case resolved(Int, [PeerAddress])
    /// The connection shall end.
    case end
}

/// Where the thread of a connection gets news from.
typealias ConnectionMailbox = Mailbox<ConnectionNews>
