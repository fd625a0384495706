package import NIOCore

/// Every bound of the proxy, by name.
package struct ProxyLimits: Sendable {
    /// Size of a request's or response's head, the first line included.
    package var headBytesLimit = 64 * 1024
    /// Header fields in one head.
    package var headFieldsLimit = 128
    /// From a request's first byte to the end of its head; for a new connection from accept.
    package var headDeadline: TimeAmount = .seconds(30)
    /// How long a connection may wait for its next request.
    package var keepAliveLimit: TimeAmount = .seconds(75)
    /// How long a body or a response may stand still because of the client. (A sandbox may take as long as it wants.)
    package var stallLimit: TimeAmount = .seconds(120)
    /// How long looking up a key or route may take.
    package var lookupDeadline: TimeAmount = .seconds(10)
    /// From the first SYN to the runner's answer to CONNECT.
    package var tunnelDeadline: TimeAmount = .seconds(10)
    /// How long an unused tunnel is kept; shorter than what the daemon keeps, so that it is not met closing.
    package var tunnelIdleLimit: TimeAmount = .seconds(15)
    /// So many connections are asked for at a time of runners of this host, each by a thread; more tunnels go through TLS
    /// meanwhile, and stay so. Enough for the connections that a client opens all at once.
    package var handoversAtOnceLimit = 64
    /// A tunnel in use over which nothing moved for this long is closed.
    package var exchangeIdleLimit: TimeAmount = .hours(24)
    /// The same where one side has ended already: a server that never answers an end does not hold its tunnel for long.
    package var halfClosedIdleLimit: TimeAmount = .minutes(10)
    /// Tunnels to one sandbox, busy and idle, over all threads.
    package var tunnelsPerSandboxLimit = 512
    /// Receive buffer of a tunnel's socket. What is in it when the sandbox ends is read at once, whether it can be passed on
    /// or not, so it bounds what one connection can make the proxy hold.
    package var tunnelReceiveBufferBytes = 256 * 1024
    /// Open client connections in all; more are closed at once.
    package var connectionsLimit = 20_000
    /// Open client connections of one IP address.
    package var connectionsPerAddressLimit = 2_000
    /// Bytes of a sent request that are kept to send it again where a pooled tunnel turns out to be closed.
    package var replayBytesLimit = 64 * 1024
    /// Unread bytes of a client that are held while its request waits for a lookup or a tunnel.
    package var pendingBytesLimit = 64 * 1024
    /// After an early answer: how long the rest of the request is thrown away before the connection is closed.
    package var lingerDeadline: TimeAmount = .seconds(5)
    /// How long requests in flight may go on after shutdown began.
    package var drainDeadline: TimeAmount = .seconds(30)
    /// Entries of each cache.
    package var cacheEntriesLimit = 100_000
    /// A cached route or key is asked again after this, even if no notification came.
    package var routeLifetime: TimeAmount = .seconds(30)
    package var keyLifetime: TimeAmount = .seconds(60)
    /// How long after it was read a route or key serves on while the database does not answer. A key that is revoked then
    /// is good for so long at most; a sandbox that moved is not reached, because its runner refuses an old epoch.
    package var outageLifetime: TimeAmount = .minutes(5)
    /// How long an unknown sandbox or key stays unknown.
    package var absenceLifetime: TimeAmount = .seconds(1)
    /// Keys that the database is asked about at a time: a flood of made-up keys leaves connections for everything else.
    package var keyLookupsAtOnceLimit = 4
    /// How often activity is written.
    package var activityInterval: Duration = .seconds(5)
    /// How often a request or WebSocket that is still open counts as activity again.
    package var activityRefresh: TimeAmount = .seconds(45)
    /// Sandboxes whose activity is held between two writes.
    package var activityEntriesLimit = 100_000

    package init() {}
}
