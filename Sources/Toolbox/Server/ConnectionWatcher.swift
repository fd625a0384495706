import HTTPTypes
package import NIOCore
package import NIOHTTPTypes

/// Sits in each connection's pipeline. Tells a long-running call that its client went away, and answers
/// `Expect: 100-continue` so that clients like curl start their upload at once.
package final class ConnectionWatcher: ChannelInboundHandler, RemovableChannelHandler {
    package typealias InboundIn = HTTPRequestPart
    package typealias InboundOut = HTTPRequestPart
    package typealias OutboundOut = HTTPResponsePart

    private var actions: [Int: @Sendable () -> Void] = [:]
    private var nextKey = 0
    private var closed = false

    package init() {}

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if case .head(let head) = unwrapInboundIn(data), head.headerFields[.expect]?.lowercased() == "100-continue" {
            context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
        }
        context.fireChannelRead(data)
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed? = event as? ChannelEvent { fire() }
        context.fireUserInboundEventTriggered(event)
    }

    package func channelInactive(context: ChannelHandlerContext) {
        fire()
        context.fireChannelInactive()
    }

    fileprivate func add(_ action: @escaping @Sendable () -> Void) -> Int {
        nextKey += 1
        if closed { action() } else { actions[nextKey] = action }
        return nextKey
    }

    fileprivate func remove(_ key: Int) {
        actions[key] = nil
    }

    private func fire() {
        closed = true
        let due = actions.values
        actions = [:]
        for action in due { action() }
    }
}

extension ToolboxCall {
    /// Runs `body`; when the client closes its connection meanwhile, or has done so already, `action` is called once.
    package func whileConnected<Value>(
        onDisconnect action: @escaping @Sendable () -> Void,
        _ body: () async throws -> Value
    ) async throws -> Value {
        let key = try await watch(action)
        defer { forget(key) }
        return try await body()
    }

    private func watch(_ action: @escaping @Sendable () -> Void) async throws -> Int? {
        try await channel.eventLoop.submit { [channel] () -> Int? in
            guard let watcher = try? channel.pipeline.syncOperations.handler(type: ConnectionWatcher.self) else {
                action()
                return nil
            }
            return watcher.add(action)
        }.get()
    }

    private func forget(_ key: Int?) {
        guard let key else { return }
        channel.eventLoop.execute { [channel] in
            (try? channel.pipeline.syncOperations.handler(type: ConnectionWatcher.self))?.remove(key)
        }
    }
}
