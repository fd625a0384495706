/// The limits of a pool.
package struct PostgresPoolConfiguration: Sendable {
    /// The most connections there are at a time.
    package var connectionLimit = 10
    /// How many connections are kept ready when there is nothing to do.
    package var minimumIdle = 1
    /// How long a caller waits for a connection.
    package var acquisitionDeadline: Duration = .seconds(10)
    /// How many callers may wait in line.
    package var waiterLimit = 10_000
    /// An idle connection beyond `minimumIdle` is closed after this time.
    package var idleLimit: Duration = .seconds(300)
    /// An idle connection is asked for a sign of life this often.
    package var healthCheckInterval: Duration = .seconds(30)
    /// How long that sign may take.
    package var healthCheckDeadline: Duration = .seconds(5)
    /// The first pause after a failure to connect; it doubles…
    package var firstBackoff: Duration = .milliseconds(100)
    /// … up to this.
    package var backoffLimit: Duration = .seconds(2)
    /// At shutdown, how long borrowed connections may still be used before they are closed all the same.
    package var shutdownGrace: Duration = .seconds(30)

    package init(connectionLimit: Int = 10, minimumIdle: Int = 1) {
        self.connectionLimit = max(1, connectionLimit)
        self.minimumIdle = min(max(0, minimumIdle), self.connectionLimit)
    }
}

/// How a pool stands, for gauges and for people.
package struct PostgresPoolStatus: Sendable, Hashable, CustomStringConvertible {
    package var limit: Int
    package var idle: Int
    package var inUse: Int
    package var opening: Int
    package var closing: Int
    package var waiting: Int

    package init(limit: Int, idle: Int, inUse: Int, opening: Int, closing: Int, waiting: Int) {
        self.limit = limit
        self.idle = idle
        self.inUse = inUse
        self.opening = opening
        self.closing = closing
        self.waiting = waiting
    }

    package var description: String {
        "limit \(limit), \(inUse) in use, \(idle) idle, \(opening) opening, \(closing) closing, \(waiting) waiting"
    }
}
