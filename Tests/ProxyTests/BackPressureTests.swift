import Foundation
import NIOCore
import Synchronization
import Testing

/// A slow reader slows its writer, and nobody else; what lies between them is bounded.
@Suite(.timeLimit(.minutes(5)), .serialized)
struct BackPressureTests {
    static let pieceBytes = 64 * 1024
    static let totalBytes = 256 << 20
    /// What the kernel may hold on three hops, and some for the proxy's own buffers.
    static let inFlightLimitBytes = 3 * (largest("tcp_rmem") + largest("tcp_wmem")) + (8 << 20)

    private static func largest(_ name: String) -> Int {
        let text = (try? String(contentsOfFile: "/proc/sys/net/ipv4/\(name)", encoding: .ascii)) ?? ""
        return text.split(whereSeparator: \.isWhitespace).last.flatMap { Int($0) } ?? 0
    }

    /// Sends until all is sent and counts what was taken.
    private static func pour(into wire: Wire, counting sent: borrowing Mutex<Int>) async throws {
        let piece = ByteBuffer(repeating: 120, count: pieceBytes)
        for _ in 0..<(totalBytes / pieceBytes) {
            // Past the writer's own queue: what returns from here is with the kernel.
            try await wire.channel.writeAndFlush(piece)
            sent.withLock { $0 += pieceBytes }
        }
    }

    /// All that is written must leave before the connection is closed.
    private static func end(_ server: Wire) async {
        server.finish()
        _ = try? await server.readToEnd()
    }

    private static func drain(_ wire: Wire) async throws -> Int {
        var count = 0
        while count < totalBytes, let bytes = try await wire.receive() { count += bytes.readableBytes }
        return count
    }

    /// Waits until the count does not move any more.
    private static func settled(_ sent: borrowing Mutex<Int>) async throws -> Int {
        var last = -1
        while true {
            let now = sent.withLock { $0 }
            if now == last, now > 0 { return now }
            last = now
            try await Task.sleep(for: .milliseconds(300))
        }
    }

    @Test func aClientThatDoesNotReadStopsTheServer() async throws {
        let sent = Counter()
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send("HTTP/1.1 200 OK\r\nContent-Length: \(Self.totalBytes)\r\n\r\n")
                try await Self.pour(into: server, counting: sent.bytes)
                await Self.end(server)
            } client: { client in
                try await client.send(path.request("GET", "/"))
                _ = try await client.readHead()
                let held = try await Self.settled(sent.bytes)
                #expect(held < min(Self.inFlightLimitBytes, Self.totalBytes))
                #expect(try await Self.drain(client) == Self.totalBytes)
            }
        }
    }

    @Test func aServerThatDoesNotReadStopsTheClient() async throws {
        let sent = Counter()
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                let held = try await Self.settled(sent.bytes)
                #expect(held < min(Self.inFlightLimitBytes, Self.totalBytes))
                #expect(try await Self.drain(server) == Self.totalBytes)
                try await server.answer()
            } client: { client in
                try await client.send(path.request("POST", "/", fields: "Content-Length: \(Self.totalBytes)\r\n"))
                try await Self.pour(into: client, counting: sent.bytes)
                #expect(try await client.readMessage().status == 200)
            }
        }
    }
}

final class Counter: Sendable {
    let bytes = Mutex(0)
}
