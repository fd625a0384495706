/// The decisions of a work queue, without clock, lock or task.
///
///                add                    next                finish(.settled)
///     (unknown) ─────▶ ready (FIFO) ──────────▶ running ───────────────────▶ (unknown)
///         ▲              ▲   ▲                   │   │
///         │              │   └── finish, dirty ──┘   │ finish(.recheck / .failed)
///         │              └────── due ◀── delayed ◀───┘
///
/// Invariants: a key is in at most one of ready and delayed; it never runs twice at once; a key added while it runs is
/// dirty and runs again afterwards, behind those already waiting; a key that failed runs no sooner than its floor.
struct WorkQueueStateMachine<Key: Hashable & Sendable>: Sendable {
    enum Next: Equatable {
        case run(Key)
        /// Nothing to run before that time, or before something is added or finished.
        case wait(until: Duration?)
    }

    enum Result: Equatable {
        case settled
        case recheck(after: Duration)
        case failed(RetryAdvice)
        /// The pass was cut off because the controller stops.
        case abandoned
    }

    private struct Failure {
        var count: Int
        var at: Duration
    }

    let concurrency: Int
    let backoff: Backoff
    private var ready = FIFO<Key>()
    private var queued: Set<Key> = []
    private var running: Set<Key> = []
    private var dirty: Set<Key> = []
    private var delayed = Timetable<Key>()
    private var failures: [Key: Failure] = [:]

    init(concurrency: Int, backoff: Backoff) {
        precondition(concurrency > 0)
        self.concurrency = concurrency
        self.backoff = backoff
    }

    var readyCount: Int { queued.count }
    var delayedCount: Int { delayed.count }
    var runningCount: Int { running.count }

    /// Something may have changed: run `key` as soon as may be.
    mutating func add(_ key: Key, now: Duration) {
        if running.contains(key) {
            dirty.insert(key)
        } else if let failure = failures[key] {
            schedule(key, at: max(now, failure.at + backoff.floor(failures: failure.count)))
        } else {
            enqueue(key)
        }
    }

    /// A routine look at everything: does not hurry keys that wait for their time.
    mutating func addUnlessWaiting(_ key: Key, now: Duration) {
        if !delayed.contains(key) { add(key, now: now) }
    }

    /// Run `key` at that time, or sooner if it is to run sooner anyway.
    mutating func schedule(_ key: Key, at time: Duration) {
        if !queued.contains(key) { delayed.insert(key, at: time) }
    }

    /// What to do at `now`. A key that is returned is running until `finish`.
    mutating func next(now: Duration) -> Next {
        while let key = delayed.takeDue(now) {
            if running.contains(key) { dirty.insert(key) } else { enqueue(key) }
        }
        guard running.count < concurrency else { return .wait(until: nil) }
        guard let key = ready.popFirst() else { return .wait(until: delayed.earliest) }
        queued.remove(key)
        running.insert(key)
        return .run(key)
    }

    /// The pass of `key` ended. `random` in 0..<1 spreads the retries.
    mutating func finish(_ key: Key, _ result: Result, now: Duration, random: Double) {
        running.remove(key)
        let wasWoken = dirty.remove(key) != nil
        switch result {
        case .settled, .abandoned:
            failures[key] = nil
        case .recheck(let delay):
            failures[key] = nil
            schedule(key, at: now + delay)
        case .failed(let advice):
            let count = (failures[key]?.count ?? 0) + 1
            failures[key] = Failure(count: count, at: now)
            switch advice {
            case .backoff: schedule(key, at: now + backoff.delay(failures: count, random: random))
            case .never: break
            }
        }
        if wasWoken { add(key, now: now) }
    }

    private mutating func enqueue(_ key: Key) {
        delayed.remove(key)
        if queued.insert(key).inserted { ready.append(key) }
    }
}

/// First in, first out, in amortised constant time.
struct FIFO<Element: Sendable>: Sendable {
    private var elements: [Element] = []
    private var head = 0

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func popFirst() -> Element? {
        guard head < elements.count else { return nil }
        defer {
            head += 1
            if head * 2 > elements.count {
                elements.removeFirst(head)
                head = 0
            }
        }
        return elements[head]
    }
}

/// Keys with the time each is due; one time per key, the earliest.
struct Timetable<Key: Hashable & Sendable>: Sendable {
    private struct Entry {
        let time: Duration
        let key: Key
    }

    private var times: [Key: Duration] = [:]
    /// Sorted, latest first, so that the earliest is taken from the end. May hold outdated entries: only those agreeing
    /// with `times` count.
    private var entries: [Entry] = []

    var count: Int { times.count }

    func contains(_ key: Key) -> Bool { times[key] != nil }

    var earliest: Duration? {
        mutating get {
            dropOutdated()
            return entries.last?.time
        }
    }

    mutating func insert(_ key: Key, at time: Duration) {
        if let known = times[key], known <= time { return }
        times[key] = time
        entries.insert(Entry(time: time, key: key), at: position(of: time))
    }

    mutating func remove(_ key: Key) { times[key] = nil }

    mutating func takeDue(_ now: Duration) -> Key? {
        dropOutdated()
        guard let last = entries.last, last.time <= now else { return nil }
        entries.removeLast()
        times[last.key] = nil
        return last.key
    }

    private mutating func dropOutdated() {
        while let last = entries.last, times[last.key] != last.time { entries.removeLast() }
    }

    private func position(of time: Duration) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].time > time { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
