package import Hummingbird
import NIOCore

/// What Hummingbird hands along with a request.
package struct APIContext: RequestContext {
    package var coreContext: CoreRequestContextStorage
    /// The address of the other end of the connection.
    let remoteAddress: String

    package init(source: ApplicationRequestContextSource) {
        coreContext = .init(source: source)
        remoteAddress = source.channel.remoteAddress?.ipAddress ?? "unknown"
    }
}
