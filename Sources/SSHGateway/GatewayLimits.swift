/// Every bound of the gateway, by name.
package struct GatewayLimits: Sendable {
    /// Connections at a time, each of which has a thread; more are closed at once.
    package var connectionsLimit = 1_000
    /// Those of one address, or of one network of 64 bits with IPv6, logged in or not.
    package var connectionsPerAddressLimit = 100
    /// Those into one sandbox, as its own server has it.
    package var connectionsPerSandboxLimit = 64
    /// Channels of a connection, opened by either side: sessions and forwarded connections. Its own server has the same.
    package var channelsLimit = 256
    /// Requests of one side that the other may leave unanswered.
    package var unansweredRequestsLimit = 1_024
    /// Time from the connection to a token that is good.
    package var loginDeadline: Duration = .seconds(30)
    /// Time from there to the sandbox's server having let us in.
    package var entryDeadline: Duration = .seconds(20)
    /// How long each refusal takes, whatever the token was, so that nothing can be told from it.
    package var refusalDelay: Duration = .milliseconds(500)
    /// Refusals before a connection is closed.
    package var refusalsLimit = 6
    /// How many refusals one address has within `refusalWindow` before each connection of it has but one.
    package var refusalsPerAddressLimit = 30
    package var refusalWindow: Duration = .seconds(60)
    /// Admissions that wait for the database, and tunnels that are being opened.
    package var errandsLimit = 2_048
    /// Admissions that the database is asked for at a time.
    package var admissionsAtOnceLimit = 4
    /// How long an unanswered question about an open session waits before it is asked again.
    package var recheckPause: Duration = .seconds(2)
    /// How long the database may take to learn why a sandbox ended its side, before the client is told that it is not known.
    package var reasonDeadline: Duration = .seconds(3)
    /// From the first SYN to the runner's answer to CONNECT.
    package var tunnelDeadline: Duration = .seconds(10)
    /// The largest answer of a daemon, its head included.
    package var daemonAnswerBytes = 64 << 10
    /// How long our key is good at the daemon, in seconds: long enough to log in with.
    package var keySeconds = 60
    /// Bytes that one side may have waiting before the other is no longer read.
    package var unwrittenBytes = 128 << 10
    /// Bytes that may wait in spite of that, while new keys are agreed on or as answers of the gateway's own to a side that
    /// does not take them; with more the connection is closed.
    package var floodBytes = 8 << 20
    /// Reads, of 4 KiB each, of one side before the other has its turn.
    package var readsPerTurn = 64
    /// So long may a side be silent before it is asked for a sign of life …
    package var keepAliveInterval: Duration = .seconds(30)
    /// … and so long before it is taken for dead.
    package var silenceLimit: Duration = .seconds(300)
    /// How often an open session counts as use of the sandbox.
    package var activityInterval: Duration = .seconds(45)
    /// How long the last word, and what is on its way before it, may take.
    package var farewellDeadline: Duration = .seconds(10)
    /// How long a client may then take to close its side.
    package var lingerDeadline: Duration = .seconds(2)
    /// How long sessions may go on after shutdown began.
    package var drainDeadline: Duration = .seconds(5)

    package init() {}
}
