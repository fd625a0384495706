package import NIOCore

/// Every bound of the ingress, by name.
package struct IngressLimits: Sendable {
    /// Open tunnels to one sandbox; more is answered 503.
    package var tunnelsPerSandboxLimit = 1024
    /// Open connections in all, handshakes included; more is closed at once.
    package var connectionsLimit = 16384
    /// Size of a CONNECT request's head.
    package var headBytesLimit = 2048
    /// From accept to the end of the CONNECT head, the TLS handshake included.
    package var headDeadline: TimeAmount = .seconds(10)
    /// From a valid CONNECT to a connection in the sandbox.
    package var dialDeadline: TimeAmount = .seconds(5)
    /// How long a daemon that does not listen is waited for, and the time between two tries.
    package var daemonPatience: TimeAmount = .seconds(2)
    package var daemonPause: TimeAmount = .milliseconds(20)
    /// A tunnel over which nothing moved for this long is closed. Dead peers are found by TCP keep-alive, much sooner.
    package var idleLimit: TimeAmount = .hours(24)
    /// The same where one side has ended already: a server that never answers an end does not hold its tunnel for long.
    package var halfClosedIdleLimit: TimeAmount = .minutes(10)
    /// Receive buffer of each socket. What is in it when a peer ends is read at once, whether it can be passed on or not.
    package var receiveBufferBytes = 256 * 1024
    /// How far ahead a token may expire.
    package var tokenLifetimeLimitSeconds: Int64 = 60
    /// How long open tunnels may go on after shutdown began.
    package var drainDeadline: TimeAmount = .seconds(30)
    /// Threads that open sockets in namespaces; each visit takes microseconds.
    package var dialThreads = 2

    package init() {}
}
