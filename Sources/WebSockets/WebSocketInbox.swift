import Synchronization

/// Messages on their way from the event loop to the program: bounded, since the connection stops reading while it is full.
final class WebSocketInbox: Sendable {
    private struct State {
        var messages: [WebSocketMessage] = []
        var first = 0
        var bytes = 0
        var finished = false
        var waiter: CheckedContinuation<WebSocketMessage?, Never>?
        /// Set while the connection waits to be told that there is room.
        var full = false
    }

    /// What a message costs beside its bytes, so that empty ones are bounded as well.
    private static let overheadBytes = 64

    private let state = Mutex(State())
    private let limitBytes: Int
    /// Called from any thread when there is room again.
    private let onRoom: @Sendable () -> Void

    init(limitBytes: Int, onRoom: @escaping @Sendable () -> Void) {
        self.limitBytes = limitBytes
        self.onRoom = onRoom
    }

    /// Adds a message; false if no more should be read until there is room.
    func add(_ message: WebSocketMessage) -> Bool {
        let (waiter, hasRoom) = state.withLock { state -> (CheckedContinuation<WebSocketMessage?, Never>?, Bool) in
            if let waiter = state.waiter {
                state.waiter = nil
                return (waiter, true)
            }
            state.messages.append(message)
            state.bytes += message.count + Self.overheadBytes
            state.full = state.bytes >= limitBytes
            return (nil, !state.full)
        }
        waiter?.resume(returning: message)
        return hasRoom
    }

    /// No message comes any more; those that are there can still be taken.
    func finish() {
        let waiter = state.withLock { state in
            state.finished = true
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: nil)
    }

    /// The next message; nil at the end, or if the task is cancelled while none is there. For one task at a time.
    func next() async -> WebSocketMessage? {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in take(continuation) }
        } onCancel: {
            let waiter = state.withLock { state in
                defer { state.waiter = nil }
                return state.waiter
            }
            waiter?.resume(returning: nil)
        }
    }

    private func take(_ continuation: CheckedContinuation<WebSocketMessage?, Never>) {
        let cancelled = Task.isCancelled
        let (answer, hasRoom) = state.withLock { state -> (WebSocketMessage??, Bool) in
            precondition(state.waiter == nil, "two tasks read the messages of one WebSocket")
            if let message = Self.removeFirst(&state) {
                let hasRoom = state.full && state.bytes < limitBytes / 2
                if hasRoom { state.full = false }
                return (message, hasRoom)
            }
            // A cancellation before this line found no waiter; it is seen here. One after it finds the waiter.
            if state.finished || cancelled || Task.isCancelled { return (.some(nil), false) }
            state.waiter = continuation
            return (nil, false)
        }
        if let answer { continuation.resume(returning: answer) }
        if hasRoom { onRoom() }
    }

    private static func removeFirst(_ state: inout State) -> WebSocketMessage? {
        guard state.first < state.messages.count else { return nil }
        let message = state.messages[state.first]
        state.messages[state.first] = .text("")
        state.first += 1
        state.bytes -= message.count + overheadBytes
        if state.first == state.messages.count || state.first >= 64 {
            state.messages.removeFirst(state.first)
            state.first = 0
        }
        return message
    }
}

/// The peer's messages, in order. Ends when the peer closed or is gone. For one task at a time.
package struct WebSocketMessages: AsyncSequence, Sendable {
    package typealias Element = WebSocketMessage
    package typealias Failure = Never

    let inbox: WebSocketInbox

    package struct AsyncIterator: AsyncIteratorProtocol {
        let inbox: WebSocketInbox

        /// Messages that arrived before the end or a cancellation are still answered.
        package mutating func next() async -> WebSocketMessage? { await inbox.next() }
    }

    package func makeAsyncIterator() -> AsyncIterator { AsyncIterator(inbox: inbox) }
}
