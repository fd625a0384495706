/// Requests that were sent to one side and not yet answered, in their order, which is the order of the answers.
struct RequestAccount {
    private let limit: Int
    private var areOurs: [Bool] = []
    private var first = 0

    init(limit: Int) { self.limit = limit }

    private var count: Int { areOurs.count - first }

    /// Enters a request; false where too many are unanswered.
    mutating func sent(isOurs: Bool) -> Bool {
        guard count < limit else { return false }
        areOurs.append(isOurs)
        return true
    }

    /// Whether the answer that came is to a request of the gateway's; nil where nothing was asked.
    mutating func answered() -> Bool? {
        guard count > 0 else { return nil }
        defer {
            first += 1
            if first == areOurs.count || first >= limit {
                areOurs.removeFirst(first)
                first = 0
            }
        }
        return areOurs[first]
    }
}

/// How many channels are open or being opened, by what passes. Each is closed by both sides.
struct ChannelAccount {
    private let limit: Int
    private var opened = 0
    private var closings = 0

    init(limit: Int) { self.limit = limit }

    /// Who sends closings of channels that do not exist fools this count, and its own sandbox's server keeps another.
    var count: Int { max(0, opened - closings / 2) }

    /// Enters one; false where there is no room.
    mutating func open() -> Bool {
        guard count < limit else { return false }
        opened += 1
        return true
    }

    mutating func failed() { opened = max(0, opened - 1) }

    mutating func closed() { closings += 1 }
}

/// When a side is asked for a sign of life, and when it is taken for dead.
struct Pulse {
    enum Finding: Equatable { case nothing, ask, dead }

    private let interval: Duration
    private let limit: Duration
    private var bytes: UInt64 = 0
    private var heard: ContinuousClock.Instant
    private var asked: ContinuousClock.Instant

    init(_ limits: GatewayLimits, now: ContinuousClock.Instant = .now) {
        (interval, limit) = (limits.keepAliveInterval, limits.silenceLimit)
        (heard, asked) = (now, now)
    }

    /// The side has sent so many bytes in all.
    mutating func note(_ bytes: UInt64, now: ContinuousClock.Instant = .now) {
        if bytes != self.bytes { (self.bytes, heard) = (bytes, now) }
    }

    /// When to look next.
    var deadline: ContinuousClock.Instant { min(max(heard, asked) + interval, heard + limit) }

    mutating func look(now: ContinuousClock.Instant = .now) -> Finding {
        if now >= heard + limit { return .dead }
        guard now >= max(heard, asked) + interval else { return .nothing }
        asked = now
        return .ask
    }
}
