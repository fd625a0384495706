import HummingbirdCore
import Limiting
import Logging
import NIOCore
import NIOHTTPTypes

/// A client's connection: HTTP/1 as Hummingbird speaks it, within bounds that it does not know.
struct ClientChannel: ServerChildChannel {
    typealias Value = HTTP1Channel.Value

    let http: HTTP1Channel
    let limits: APILimits
    let addresses: PlaceCounts<Place>

    init(responder: @escaping HTTPChannelHandler.Responder, limits: APILimits, addresses: PlaceCounts<Place>) {
        self.limits = limits
        self.addresses = addresses
        let configuration = HTTP1Channel.Configuration(
            additionalChannelHandlers: [RequestMarker()],
            idleTimeout: TimeAmount(limits.idleLimit),
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: limits.headerByteLimit,
                maxHeaderListSize: limits.headerByteLimit,
                maxHeaderFieldCount: 100
            )
        )
        http = HTTP1Channel(responder: responder, configuration: configuration)
    }

    func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
        let place = Place(of: channel.remoteAddress?.ipAddress ?? "unknown")
        let isAdmitted = addresses.admit(place)
        if isAdmitted { channel.closeFuture.whenComplete { _ in addresses.leave(place) } }
        return channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(Patience(limits: limits))
        }.flatMap {
            http.setup(channel: channel, logger: logger)
        }.always { _ in
            // Closed rather than failed: a failed setup ends the listener of an asynchronous server.
            if !isAdmitted { channel.close(promise: nil) }
        }
    }

    func handle(value: Value, logger: Logger) async { await http.handle(value: value, logger: logger) }
}
