/// What a source has to say.
package enum SourceSignal<Key: Hashable & Sendable>: Sendable, Hashable {
    /// This key may have changed.
    case key(Key)
    /// Anything may have changed, as after a lost connection: list all keys and look at each.
    case resync
}

/// Something that wakes keys: notifications, events of an engine, a timer.
///
/// A source only makes things fast; the controller's own resync makes them right. So whatever a source loses costs time only.
package struct Source<Key: Hashable & Sendable>: Sendable {
    package let name: String
    let follow: @Sendable (@Sendable (SourceSignal<Key>) -> Void) async throws -> Void

    /// `follow` runs until it is cancelled, calling its argument (which never blocks) for each signal. When it returns or
    /// throws, it is called again after a backoff, and everything is resynced.
    package init(
        _ name: String,
        follow: @escaping @Sendable (@Sendable (SourceSignal<Key>) -> Void) async throws -> Void
    ) {
        self.name = name
        self.follow = follow
    }

    /// The signals of the sequence that `make` returns; it is called anew when a sequence ends.
    package init<Signals: AsyncSequence & SendableMetatype>(
        _ name: String,
        _ make: @escaping @Sendable () async throws -> Signals
    )
    where Signals.Element == SourceSignal<Key>, Signals.AsyncIterator: SendableMetatype {
        self.init(name) { signal in
            for try await element in try await make() { signal(element) }
        }
    }
}
