import Docker
import NIOCore
import Synchronization
import Testing

@testable import struct Docker.LogFrames

@Suite struct LogTests {
    @Test func separatesTheTwoOutputs() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(
                named: test.mark,
                test.sleeper("echo out; echo err >&2; echo more")
            ).id
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(90))
            let tail = try await test.engine.logTail(id)
            #expect(String(buffer: tail.standardOutput) == "out\nmore\n")
            #expect(String(buffer: tail.standardError) == "err\n")
            #expect(!tail.isTruncated)
        }
    }

    @Test func tailIsBoundedInLinesAndBytes() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper("seq 1 50000")).id
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(90))
            #expect(String(buffer: try await test.engine.logTail(id, lines: 2).standardOutput) == "49999\n50000\n")
            let bounded = try await test.engine.logTail(id, lines: 50_000, limitBytes: 12)
            #expect(String(buffer: bounded.standardOutput) == "49999\n50000\n")
            #expect(bounded.isTruncated)
        }
    }

    @Test func followsUntilTheContainerEnds() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(
                named: test.mark,
                test.sleeper("echo one; read line < /dev/null; sleep 1; echo two")
            ).id
            try await test.engine.startContainer(id)
            let seen = Mutex("")
            try await test.engine.logs(id, LogRequest(follows: true), within: .seconds(90)) { piece in
                seen.withLock { $0 += String(buffer: piece.bytes) }
            }
            #expect(seen.withLock { $0 } == "one\ntwo\n")
        }
    }

    @Test func followingHasADeadline() async throws {
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper()).id
            try await test.engine.startContainer(id)
            let result = try await kind {
                try await test.engine.logs(id, LogRequest(follows: true), within: .milliseconds(300)) { _ in }
            }
            #expect(result == .timeout)
        }
    }

    @Test func aReadersOwnErrorIsNotTakenForTheEngines() async throws {
        struct Enough: Error {}
        try await withEngine { test in
            let id = try await test.engine.createContainer(named: test.mark, test.sleeper("echo out")).id
            try await test.engine.startContainer(id)
            _ = try await test.engine.waitContainer(id, within: .seconds(90))
            await #expect(throws: Enough.self) { try await test.engine.logs(id) { _ in throw Enough() } }
        }
    }

    /// However the stream is cut into chunks, the same bytes come out.
    @Test func framesSurviveAnyCut() throws {
        var stream = ByteBuffer()
        for (kind, text) in [(1, "hello "), (2, "oops"), (1, ""), (1, "world")] {
            stream.writeMultipleIntegers(UInt8(kind), UInt8(0), UInt8(0), UInt8(0), UInt32(text.utf8.count))
            stream.writeString(text)
        }
        for size in 1...stream.readableBytes {
            var (rest, frames, out, err) = (stream, LogFrames(), "", "")
            while rest.readableBytes > 0, let chunk = rest.readSlice(length: min(size, rest.readableBytes)) {
                for piece in try frames.feed(chunk) {
                    switch piece.stream {
                    case .standardOutput: out += String(buffer: piece.bytes)
                    case .standardError: err += String(buffer: piece.bytes)
                    }
                }
            }
            #expect(out == "hello world" && err == "oops", "chunks of \(size)")
        }
    }

    @Test func refusesAStreamThatIsNotMultiplexed() {
        var frames = LogFrames()
        #expect(throws: DockerError.self) { try frames.feed(ByteBuffer(string: "plain text of a terminal")) }
    }
}
