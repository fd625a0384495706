package import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOWebSocket

/// Why a request cannot become a WebSocket: an ordinary answer with this status.
package struct WebSocketRefusal: Error, Sendable, Equatable {
    package var status: HTTPResponse.Status
    /// Names the header that is wrong.
    package var message: String
    /// Headers that the answer must have.
    package var headers: HTTPFields = [:]
}

/// The opening handshake of RFC 6455, section 4.2.
package struct WebSocketHandshake: Sendable {
    /// Sub-protocols that the client offers, in its order of preference.
    package let protocols: [String]
    private let key: String

    /// Whether the request asks for a WebSocket at all. Any other upgrade may be ignored.
    package static func isAskedFor(by request: HTTPRequest) -> Bool {
        tokens(request.headerFields, .upgrade).contains { $0.lowercased() == "websocket" }
            && tokens(request.headerFields, .connection).contains { $0.lowercased() == "upgrade" }
    }

    /// - Throws: `WebSocketRefusal` if the request is no valid handshake.
    package init(_ request: HTTPRequest) throws {
        guard request.method == .get else {
            throw Self.refusal("a WebSocket begins with GET, not \(request.method.rawValue)")
        }
        guard Self.isAskedFor(by: request) else {
            throw WebSocketRefusal(
                status: .upgradeRequired,
                message: "this path is a WebSocket; send the headers Upgrade: websocket and Connection: Upgrade",
                headers: [.upgrade: "websocket", .connection: "Upgrade"]
            )
        }
        let versions = Self.tokens(request.headerFields, .webSocketVersion)
        guard versions == ["13"] else {
            throw WebSocketRefusal(
                status: .upgradeRequired,
                message: "header Sec-WebSocket-Version is '\(versions.joined(separator: ", "))', not 13",
                headers: [.webSocketVersion: "13"]
            )
        }
        let keys = request.headerFields[values: .webSocketKey]
        guard keys.count == 1, Self.isKey(keys[0]) else {
            throw Self.refusal("header Sec-WebSocket-Key is not 16 bytes in base64")
        }
        key = keys[0]
        protocols = Self.tokens(request.headerFields, .webSocketProtocol)
        guard protocols.allSatisfy(isToken) else {
            throw Self.refusal("header Sec-WebSocket-Protocol holds a name that is no token")
        }
    }

    /// The headers of the 101. `name` must be one of `protocols`, or nil for none.
    func answer(selecting name: String?, channel: any Channel) async throws -> HTTPFields {
        precondition(name.map(protocols.contains) ?? true, "a sub-protocol that was not offered")
        let upgrader = NIOWebSocketServerUpgrader(
            shouldUpgrade: { channel, _ in channel.eventLoop.makeSucceededFuture([:]) },
            upgradePipelineHandler: { channel, _ in channel.eventLoop.makeSucceededVoidFuture() }
        )
        let request = HTTPRequestHead(
            version: .http1_1,
            method: .GET,
            uri: "/",
            headers: ["Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"]
        )
        let headers = try await upgrader.buildUpgradeResponse(
            channel: channel,
            upgradeRequest: request,
            initialResponseHeaders: [:]
        ).get()
        var fields: HTTPFields = [.upgrade: "websocket", .connection: "Upgrade"]
        fields[.webSocketAccept] = headers.first(name: "Sec-WebSocket-Accept")
        fields[.webSocketProtocol] = name
        return fields
    }

    private static func refusal(_ message: String) -> WebSocketRefusal {
        WebSocketRefusal(status: .badRequest, message: message)
    }

    /// 16 bytes are 22 characters and two of padding.
    private static func isKey(_ key: String) -> Bool {
        let bytes = Array(key.utf8)
        return bytes.count == 24 && bytes[22] == UInt8(ascii: "=") && bytes[23] == UInt8(ascii: "=")
            && bytes[..<22].allSatisfy(isBase64)
    }

    private static func isBase64(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "/"):
            true
        default: false
        }
    }

    /// The elements of a header that is a list, over all its lines.
    private static func tokens(_ fields: HTTPFields, _ name: HTTPField.Name) -> [String] {
        fields[values: name].flatMap { line in
            line.split(separator: ",").map { String($0.trimmingSpaces()) }.filter { !$0.isEmpty }
        }
    }
}

/// RFC 9110's token.
private func isToken(_ name: String) -> Bool {
    !name.isEmpty && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && !Array("()<>@,;:\\\"/[]?={}".utf8).contains($0) }
}

extension Substring {
    fileprivate func trimmingSpaces() -> Substring {
        var text = self
        while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
        while let last = text.last, last == " " || last == "\t" { text.removeLast() }
        return text
    }
}

extension HTTPField.Name {
    static let webSocketKey = HTTPField.Name("Sec-WebSocket-Key")!  // these are constants that are valid names
    static let webSocketAccept = HTTPField.Name("Sec-WebSocket-Accept")!
    static let webSocketVersion = HTTPField.Name("Sec-WebSocket-Version")!
    static let webSocketProtocol = HTTPField.Name("Sec-WebSocket-Protocol")!
}
