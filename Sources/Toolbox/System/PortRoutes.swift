import Glibc
import HTTPTypes
import Hummingbird
import NIOCore

/// `GET /port` and `GET /port/{port}/in-use`: who listens in the sandbox, from /proc/net. With `?follow=true` the first goes
/// on with what changes: nothing watches, and nothing is spent, while nobody follows.
package struct PortRoutes: Sendable {
    /// Most of a table that is read: about 100,000 sockets.
    private static let tableLimitBytes = 16 << 20

    let ownPorts: OwnPorts
    private let followers = FollowerCount()

    init(ownPorts: OwnPorts) {
        self.ownPorts = ownPorts
    }

    func list(_ call: ToolboxCall) async throws -> Response {
        if try call.query.flag("follow") { return try follow(call) }
        return try jsonResponse(["ports": try await usersPorts().sorted()])
    }

    func isInUse(_ call: ToolboxCall) async throws -> Response {
        let text = call.parameters["port"] ?? ""
        guard let port = Int(text), (1...65535).contains(port), String(port) == text else {
            throw ToolboxError.badRequest("'\(text)' is not a port between 1 and 65535")
        }
        return try jsonResponse(["isInUse": try await Self.listening().contains(port)])
    }

    /// Lines of JSON like `{"opened":[8000],"closed":[]}`: first what is open, then what changes, until the client leaves or
    /// the sandbox stops. A line that says nothing comes now and then, so that both ends and all between see life.
    private func follow(_ call: ToolboxCall) throws -> Response {
        let ticket = try followers.enter()
        return Response(
            status: .ok,
            headers: [.contentType: "application/x-ndjson"],
            body: ResponseBody { writer in
                var follower = PortFollower(call: call)
                while let line = try await follower.next(usersPorts) { try await writer.write(line) }
                try await writer.finish(nil)
                withExtendedLifetime(ticket) {}
            }
        )
    }

    private func usersPorts() async throws -> Set<Int> {
        try await Self.listening().subtracting(ownPorts.all)
    }

    private static func listening() async throws -> Set<Int> {
        try await onBlockingThread {
            let tables = try ["/proc/net/tcp", "/proc/net/tcp6"].map { try readTable($0) }
            return Set(tables.flatMap { listeningPorts(inTable: $0) })
        }
    }

    private static func readTable(_ path: String) throws -> String {
        guard let file = try? OpenFile.open(path, O_RDONLY, to: "read") else { return "" }
        var text = ByteBuffer()
        while text.readableBytes < tableLimitBytes {
            let piece = try file.read(64 << 10, at: Int64(text.readableBytes))
            if piece.readableBytes == 0 { break }
            text.writeImmutableBuffer(piece)
        }
        return String(buffer: text)
    }
}

/// The local ports of the sockets in state LISTEN (0A) in a table like /proc/net/tcp.
package func listeningPorts(inTable text: String) -> [Int] {
    text.split(separator: "\n").dropFirst().compactMap { line in
        let fields = line.split(separator: " ")
        guard fields.count > 3, fields[3] == "0A", let colon = fields[1].lastIndex(of: ":") else { return nil }
        return Int(fields[1][fields[1].index(after: colon)...], radix: 16)
    }
}
