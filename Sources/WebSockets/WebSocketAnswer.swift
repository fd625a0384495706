import HTTPTypes
package import HummingbirdCore
package import Logging
package import NIOCore

/// That a handshake is accepted, and what is done on the WebSocket.
package struct WebSocketAnswer: Sendable {
    /// Talks on an open WebSocket.
    package typealias Conversation = @Sendable (WebSocket) async throws -> Void

    private let name: String?
    private let limits: WebSocketLimits
    private let conversation: Conversation

    /// Accepts. When `conversation` returns, the WebSocket is closed with 1000; when it throws, with 1011. Its task is
    /// cancelled when the connection is gone.
    /// - Parameter protocol: the sub-protocol that is agreed on; it must be one of those that the client offered.
    package static func accept(
        protocol name: String? = nil,
        limits: WebSocketLimits = WebSocketLimits(),
        _ conversation: @escaping Conversation
    ) -> WebSocketAnswer {
        WebSocketAnswer(name: name, limits: limits, conversation: conversation)
    }

    /// The 101 that Hummingbird writes, whose "body" is the conversation.
    /// - Parameter channel: the request's connection, of an `UpgradableHTTP1Channel`.
    /// - Throws: if the connection is gone.
    package func response(
        to handshake: WebSocketHandshake,
        on channel: any Channel,
        logger: Logger
    ) async throws -> Response {
        let headers = try await handshake.answer(selecting: name, channel: channel)
        let socket = try await channel.eventLoop.submit { [limits] in try arm(channel, limits) }.get()
        let body = ResponseBody { [conversation] _ in
            let isOpen = try await channel.eventLoop.submit { try upgradePoint(of: channel).hasSwitched }.get()
            guard isOpen else { throw ChannelError.ioOnClosedChannel }
            await converse(on: socket, logger, conversation)
        }
        return Response(status: .switchingProtocols, headers: headers, body: body)
    }
}

private func upgradePoint(of channel: any Channel) throws -> UpgradePoint {
    try channel.pipeline.syncOperations.handler(type: UpgradePoint.self)
}

private func arm(_ channel: any Channel, _ limits: WebSocketLimits) throws -> WebSocket {
    let point = try upgradePoint(of: channel)
    let eventLoop = channel.eventLoop
    // The inbox tells a connection that cannot be made before it.
    let resume = NIOLoopBoundBox<WebSocketConnection?>(nil, eventLoop: eventLoop)
    let inbox = WebSocketInbox(limitBytes: limits.unreadBytes) {
        eventLoop.execute { resume.value?.resumeReading() }
    }
    let connection = WebSocketConnection(limits: limits, inbox: inbox)
    resume.value = connection
    channel.closeFuture.whenComplete { _ in resume.value = nil }
    point.arm(connection, limits)
    return WebSocket(NIOLoopBound(connection, eventLoop: eventLoop), inbox: inbox, channel: channel)
}

/// Runs a conversation until it or the connection ends, and then closes.
private func converse(
    on socket: WebSocket,
    _ logger: Logger,
    _ conversation: @escaping WebSocketAnswer.Conversation
) async {
    let task = Task { try await conversation(socket) }
    // The conversation is a task of its own so that the end of the connection can cancel it from the event loop, without a
    // second task that only waits. It is always awaited here.
    socket.gone.whenComplete { _ in task.cancel() }
    do {
        try await withTaskCancellationHandler {
            try await task.value
        } onCancel: {
            task.cancel()
        }
        await socket.close()
    } catch {
        if !isConnectionLoss(error) { logger.error("web socket failed", metadata: ["error": "\(error)"]) }
        await socket.close(WebSocketClose.internalError, "internal error")
    }
}

private func isConnectionLoss(_ error: any Error) -> Bool {
    error is WebSocketClose || error is CancellationError || error is ChannelError || error is IOError
}
