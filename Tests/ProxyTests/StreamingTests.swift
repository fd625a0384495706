import Crypto
import Foundation
import NIOCore
import Testing

/// Bodies of any size go through, whole, and never rest in memory.
@Suite(.timeLimit(.minutes(5)), .serialized)
struct StreamingTests {
    static let pieceBytes = 256 * 1024
    static let pieces = 800
    static let growthLimitBytes = 160 << 20

    private static func piece(_ number: Int) -> ByteBuffer {
        var piece = ByteBuffer(repeating: UInt8(truncatingIfNeeded: number), count: pieceBytes)
        piece.setInteger(UInt64(number), at: 0)
        return piece
    }

    private static func sendAll(_ wire: Wire) async throws -> String {
        var hash = SHA256()
        for number in 0..<pieces {
            let piece = piece(number)
            piece.withUnsafeReadableBytes { hash.update(bufferPointer: $0) }
            try await wire.send(piece)
        }
        return hash.finalize().description
    }

    private static func receiveAll(_ wire: Wire) async throws -> String {
        var hash = SHA256()
        var rest = pieces * pieceBytes
        while rest > 0, let bytes = try await wire.receive() {
            bytes.withUnsafeReadableBytes { hash.update(bufferPointer: $0) }
            rest -= bytes.readableBytes
        }
        #expect(rest == 0)
        return hash.finalize().description
    }

    @Test func aDownloadOf200MegabytesIsWholeAndMemoryStaysFlat() async throws {
        try await TestPath.with { path in
            let before = ResidentMemory.bytes
            let sent = Received()
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send("HTTP/1.1 200 OK\r\nContent-Length: \(Self.pieces * Self.pieceBytes)\r\n\r\n")
                await sent.set(try await Self.sendAll(server))
                server.finish()
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/files/download?path=big"))
                _ = try await client.readHead()
                let received = try await Self.receiveAll(client)
                try await eventually { await sent.value == received }
            }
            #expect(ResidentMemory.bytes - before < Self.growthLimitBytes)
        }
    }

    @Test func anUploadOf200MegabytesIsWholeAndMemoryStaysFlat() async throws {
        try await TestPath.with { path in
            let before = ResidentMemory.bytes
            let received = Received()
            try await path.run { server in
                _ = try await server.readHead()
                await received.set(try await Self.receiveAll(server))
                try await server.answer()
            } client: { client in
                try await client.send(
                    path.request(
                        "POST",
                        "/files/upload-v2",
                        fields: "Content-Length: \(Self.pieces * Self.pieceBytes)\r\n"
                    )
                )
                let sent = try await Self.sendAll(client)
                #expect(try await client.readMessage().status == 200)
                #expect(await received.value == sent)
            }
            #expect(ResidentMemory.bytes - before < Self.growthLimitBytes)
        }
    }

    @Test func theFirstBytesOfABodyDoNotWaitForTheRest() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                #expect(try await server.read(3) == "one")
                try await server.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
                #expect(try await server.read(3) == "two")
                try await server.send("def")
            } client: { client in
                try await client.send(path.request("POST", "/", fields: "Content-Length: 6\r\n", body: "one"))
                _ = try await client.readHead()
                #expect(try await client.read(3) == "abc")
                try await client.send("two")
                #expect(try await client.read(3) == "def")
            }
        }
    }
}

/// A value that one side of a test hands to the other.
actor Received {
    private(set) var value: String?
    func set(_ value: String) { self.value = value }
}

enum ResidentMemory {
    /// Of this process, which holds proxy, ingress, server and client.
    static var bytes: Int {
        let fields = (try? String(contentsOfFile: "/proc/self/statm", encoding: .ascii))?.split(separator: " ") ?? []
        return (fields.count > 1 ? Int(fields[1]) ?? 0 : 0) * 4096
    }
}
