import Crypto
import Domain
import FoundationEssentials
package import NIOCore
import NIOPosix
import NIOSSL

/// Connects to runners' ingress over TLS. Each connection trusts the certificate that its runner's row names, and no other.
package struct IngressConnector: Sendable {
    private let tls: NIOSSLContext

    /// Throws if TLS cannot be set up at all.
    package init() throws {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv13
        configuration.trustRoots = .certificates([])
        // Verification is on and is the pin alone: see `pinned(_:)`.
        configuration.certificateVerification = .noHostnameVerification
        tls = try NIOSSLContext(configuration: configuration)
    }

    /// Opens a connection on `loop`, where this is called. `handler` is told that it is active only when the certificate is the
    /// one with this SHA-256; where it is another, it gets an error of TLS. What is returned fails where nobody answers in time.
    package func connect(
        to ingress: (host: String, port: Int),
        fingerprint: String,
        within limit: TimeAmount,
        on loop: any EventLoop,
        receiveBufferBytes: Int? = nil,
        handler: some ChannelHandler
    ) -> EventLoopFuture<any Channel> {
        let (tls, bound) = (tls, NIOLoopBound(handler, eventLoop: loop))
        let bootstrap = ClientBootstrap(group: loop)
            .connectTimeout(limit)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(.socketOption(.so_keepalive), value: 1)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let client = try NIOSSLClientHandler(
                        context: tls,
                        serverHostname: nil,
                        customVerificationCallback: Self.pinned(fingerprint)
                    )
                    try channel.pipeline.syncOperations.addHandlers(client, bound.value)
                }
            }
        guard let receiveBufferBytes else { return bootstrap.connect(host: ingress.host, port: ingress.port) }
        return bootstrap.channelOption(.socketOption(.so_rcvbuf), value: .init(receiveBufferBytes))
            .connect(host: ingress.host, port: ingress.port)
    }

    /// Accepts exactly the certificate with this SHA-256, whoever signed it.
    private static func pinned(_ fingerprint: String) -> NIOSSLCustomVerificationCallback {
        { certificates, verdict in
            let actual = (try? certificates.first?.toDERBytes()).map { SHA256.hash(data: $0).hexadecimal }
            verdict.succeed(actual == fingerprint ? .certificateVerified : .failed)
        }
    }

    /// Why an ingress refused a tunnel, in its own words: `body` is that of its answer to CONNECT.
    package static func reason(in body: ByteBufferView) -> String? {
        struct Body: Decodable { var message: String }
        return (try? JSONDecoder().decode(Body.self, from: Data(body)))?.message
    }
}
