/// Those who wait for a connection, first come, first served. Leaving from the middle is cheap: the place stays, empty,
/// until the line has moved up to it.
struct WaiterLine {
    typealias Waiter = CheckedContinuation<PostgresConnection, any Error>

    private var waiters: [UInt64: Waiter] = [:]
    private var places: [UInt64] = []
    private var front = 0
    private var lastTicket: UInt64 = 0

    var count: Int { waiters.count }

    /// Something to be found by; says nothing about the place in line.
    mutating func newTicket() -> UInt64 {
        lastTicket += 1
        return lastTicket
    }

    mutating func enter(_ waiter: Waiter, ticket: UInt64) {
        waiters[ticket] = waiter
        places.append(ticket)
    }

    mutating func leave(ticket: UInt64) -> Waiter? {
        defer { if waiters.isEmpty { clear() } }
        return waiters.removeValue(forKey: ticket)
    }

    /// The one who waits longest.
    mutating func popFirst() -> Waiter? {
        while front < places.count {
            let ticket = places[front]
            front += 1
            if let waiter = waiters.removeValue(forKey: ticket) {
                compact()
                return waiter
            }
        }
        clear()
        return nil
    }

    mutating func removeAll() -> [Waiter] {
        defer { clear() }
        return places[front...].compactMap { waiters[$0] }
    }

    private mutating func clear() {
        waiters = [:]
        places = []
        front = 0
    }

    /// Forgets the places passed, when they are the greater part.
    private mutating func compact() {
        guard front > 64, front > places.count / 2 else { return }
        places.removeFirst(front)
        front = 0
    }
}
