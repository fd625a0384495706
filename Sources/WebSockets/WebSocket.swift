package import NIOCore

/// A message could not be queued.
package struct WebSocketSendError: Error, Sendable {
    package var message: String
}

/// One end of a WebSocket. Any number of tasks may send; one may read.
package final class WebSocket: Sendable {
    /// The peer's messages. Ends when the peer closed or is gone, or this end closes. Taking none for long stops the peer
    /// from sending, and then its pings are not answered either: take them, and drop what cannot be used.
    package let messages: WebSocketMessages
    /// Fulfilled when the connection is gone. Never fails.
    package let gone: EventLoopFuture<Void>

    private let eventLoop: any EventLoop
    private let connection: NIOLoopBound<WebSocketConnection>

    init(_ connection: NIOLoopBound<WebSocketConnection>, inbox: WebSocketInbox, channel: any Channel) {
        self.connection = connection
        messages = WebSocketMessages(inbox: inbox)
        eventLoop = channel.eventLoop
        gone = channel.closeFuture
    }

    /// Sends a message after those of earlier calls, and waits until the kernel took all of it: who awaits this is as slow as
    /// the peer, and holds one message.
    /// - Throws: `WebSocketClose` once either end closed, `WebSocketSendError` if too many calls wait, `ChannelError` or
    ///   `IOError` if the connection broke. `CancellationError` if the task is cancelled; the message may be sent all the same.
    package func send(_ message: WebSocketMessage) async throws {
        let promise = eventLoop.makePromise(of: Void.self)
        eventLoop.execute { [connection] in connection.value.send(message, promise) }
        try await withTaskCancellationHandler {
            try await promise.futureResult.get()
        } onCancel: {
            promise.fail(CancellationError())
        }
    }

    /// Sends a close frame and waits, no longer than `WebSocketLimits.closeWait`, until the peer has answered it. Calls of
    /// `send` that still wait fail. A second close does nothing but wait.
    package func close(_ code: UInt16 = WebSocketClose.normal, _ reason: String = "") async {
        eventLoop.execute { [connection] in connection.value.close(WebSocketClose(code, reason)) }
        try? await gone.get()
    }
}
