/// Growing pauses between tries: doubled each time up to a limit, each shortened by up to half at random, so that many
/// clients do not come back at the same moment.
struct Backoff: Sendable {
    let first: Duration
    let limit: Duration
    private(set) var tries = 0

    init(first: Duration, limit: Duration, tries: Int = 0) {
        self.first = first
        self.limit = limit
        self.tries = tries
    }

    mutating func next() -> Duration {
        let longest = min(first * (1 << min(tries, 16)), limit)
        tries += 1
        return longest * Double.random(in: 0.5...1)
    }

    mutating func reset() { tries = 0 }
}
