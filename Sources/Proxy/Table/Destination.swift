import Crypto
import Domain
import FoundationEssentials
import NIOCore
package import Store

/// A route made ready for use: what every request needs is computed once.
package final class Destination: Sendable {
    package let route: Route
    /// nil where the row's address is not `host:port`.
    package let ingress: (host: String, port: Int)?
    /// `X-Martlet-Token: …` with CRLF.
    package let tokenLine: String
    let ingressKey: SymmetricKey
    let signingKey: SymmetricKey

    package init(_ route: Route) {
        self.route = route
        ingress = Self.parse(address: route.ingressAddress)
        tokenLine = "X-Martlet-Token: \(route.toolboxToken)\r\n"
        ingressKey = SymmetricKey(data: route.ingressSecret)
        signingKey = SymmetricKey(data: Array(route.signingKey.utf8))
    }

    var isStarted: Bool { route.state == "started" }

    /// Splits at the last colon; brackets of an IPv6 address are taken off.
    private static func parse(address: String) -> (host: String, port: Int)? {
        guard let colon = address.lastIndex(of: ":"),
            let port = Int(address[address.index(after: colon)...]), (1...65535).contains(port)
        else { return nil }
        let host = address[..<colon].drop { $0 == "[" }
        return (String(host.last == "]" ? host.dropLast() : host), port)
    }

    /// What CONNECT to `port` carries; good for 30 s at this runner, for this sandbox, port and epoch.
    package func connectHead(port: Int) -> String {
        let (id, expires) = (route.sandbox.description, Int64(Date().timeIntervalSince1970) + 30)
        let message = Array("v1:\(id):\(port):\(route.epoch):\(expires)".utf8)
        let code = HMAC<SHA256>.authenticationCode(for: message, using: ingressKey)
        return "CONNECT \(id):\(port) HTTP/1.1\r\nHost: \(id):\(port)\r\nX-Martlet-Epoch: \(route.epoch)\r\n"
            + "Proxy-Authorization: Martlet v1.\(expires).\(code.hexadecimal)\r\n\r\n"
    }
}
