package import HummingbirdCore
package import Logging
package import NIOCore
import NIOHTTP1
package import NIOHTTPTypes
import NIOHTTPTypesHTTP1

/// Hummingbird's HTTP/1 server, on whose connections any request may become a WebSocket (see `WebSocketAnswer.response`).
package struct UpgradableHTTP1Channel: ServerChildChannel, HTTPChannelHandler {
    package typealias Value = NIOAsyncChannel<HTTPRequestPart, HTTPResponsePart>

    package let responder: HTTPChannelHandler.Responder
    private let configuration: HTTP1Channel.Configuration

    package init(responder: @escaping HTTPChannelHandler.Responder, configuration: HTTP1Channel.Configuration) {
        self.responder = responder
        self.configuration = configuration
    }

    /// Makes a new connection's pipeline; Hummingbird calls it.
    package func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        channel.eventLoop.makeCompletedFuture {
            let encoder = HTTPResponseEncoder()
            let decoder = ByteToMessageHandler(
                HTTPRequestDecoder(leftOverBytesStrategy: .forwardBytes, limitConfiguration: decoderLimits)
            )
            let codec = HTTP1ToHTTPServerCodec(secure: false)
            let pipeline = channel.pipeline.syncOperations
            try pipeline.addHandlers([encoder, decoder, codec])
            try pipeline.addHandler(UpgradePoint(replacing: [encoder, decoder, codec]))
            try pipeline.addHandlers(configuration.additionalChannelHandlers())
            let idleTimeout = configuration.idleTimeout.map { Duration($0) }
            try pipeline.addHandler(HTTPConnectionStateHandler(idleTimeout: idleTimeout, logger: logger))
            return try NIOAsyncChannel(
                wrappingChannelSynchronously: channel,
                configuration: .init(isOutboundHalfClosureEnabled: true)
            )
        }
    }

    /// Serves a connection to its end; Hummingbird calls it.
    package func handle(value: Value, logger: Logger) async {
        await handleHTTP(asyncChannel: value, logger: logger)
    }

    private var decoderLimits: NIOHTTPDecoderLimitConfiguration {
        var limits = NIOHTTPDecoderLimitConfiguration()
        limits.maxHeaderFieldSize = configuration.httpDecoder.maxHeaderFieldSize
        limits.maxHeaderListSize = configuration.httpDecoder.maxHeaderListSize
        limits.maxHeaderFieldCount = configuration.httpDecoder.maxHeaderFieldCount
        return limits
    }
}

extension HTTPServerBuilder {
    /// An HTTP/1 server whose requests may become WebSockets.
    package static func http1WithWebSockets(configuration: HTTP1Channel.Configuration) -> HTTPServerBuilder {
        HTTPServerBuilder { UpgradableHTTP1Channel(responder: $0, configuration: configuration) }
    }
}
