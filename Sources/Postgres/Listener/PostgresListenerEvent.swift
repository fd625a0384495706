/// What a listener tells.
package enum PostgresListenerEvent: Sendable, Hashable {
    /// Listening has begun, again perhaps, or events had to be thrown away: anything may have been missed before this, and
    /// nothing will be from here on. Read everything anew.
    case resync
    /// Somebody called NOTIFY.
    case notification(channel: String, payload: String)
}

/// The events of a listener. For one consumer: each event is given out once.
package struct PostgresListenerEvents: AsyncSequence, Sendable {
    let inbox: ListenerInbox

    package func makeAsyncIterator() -> Iterator { Iterator(inbox: inbox) }

    package struct Iterator: AsyncIteratorProtocol {
        let inbox: ListenerInbox

        /// The next event; nil when the listener has ended or the task is cancelled.
        package mutating func next() async -> PostgresListenerEvent? { await inbox.next() }
    }
}
