import FoundationEssentials
import NIOCore
import NIOPosix
import Store
import TestSupport
import Testing

@testable import API

/// What a client does to the connection itself, byte by byte.
@Suite(.timeLimit(.minutes(5))) struct ConnectionTests {
    @Test func aHeadThatDoesNotComeInTimeIsRefused() async throws {
        try await TestAPI.with {
            $0.limits.headDeadline = .seconds(1)
        } _: { api in
            for beginning in ["", "GET /api/health HTTP/1.1\r\nHost: x\r\nX-A: "] {
                let answer = try await api.exchange(beginning)
                #expect(answer.hasPrefix("HTTP/1.1 408 "), "\(answer)")
                #expect(answer.contains(#""code":"REQUEST_TIMEOUT""#) && answer.contains("1.0 seconds"), "\(answer)")
            }
        }
    }

    @Test func theNextHeadHasADeadlineToo() async throws {
        try await TestAPI.with {
            $0.limits.headDeadline = .seconds(3)
        } _: { api in
            let answer = try await api.exchange(
                "GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n",
                then: "GET /api/health HT"
            )
            #expect(answer.hasPrefix("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 408 "), "\(answer)")
        }
    }

    /// A request may be answered later than any head's deadline, and an idle connection may be used again after it.
    @Test func theDeadlineIsOfHeadsOnly() async throws {
        try await TestAPI.with {
            $0.limits.headDeadline = .seconds(2)
            $0.limits.createHold = .seconds(4)
        } _: { api in
            let create = """
                POST /api/sandbox HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \(api.tenant.key.text)\r\n\
                Content-Length: 2\r\n\r\n{}
                """
            let again = "GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            let answer = try await api.exchange(create, then: again, after: .seconds(3))
            #expect(answer.components("HTTP/1.1 200 ") == 2, "\(answer)")
        }
    }

    @Test func aBodyThatNobodyWantsIsNotAwaitedForEver() async throws {
        try await TestAPI.with {
            $0.limits.bodyDeadline = .seconds(1)
        } _: { api in
            let answer = try await api.exchange("GET /api/health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
            #expect(answer.hasPrefix("HTTP/1.1 200 "), "\(answer)")
        }
    }

    @Test func oneAddressMayNotTakeAllConnections() async throws {
        try await TestAPI.with {
            $0.limits.connectionsPerAddressLimit = 2
        } _: { api in
            let request = "GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            try await api.withOpenConnection {
                try await api.withOpenConnection {
                    let answer = try await api.exchange(request)
                    #expect(answer == "")
                }
            }
            try await poll { (try? await api.exchange(request))?.hasPrefix("HTTP/1.1 200 ") == true }
        }
    }

    @Test func oneHostAndWrittenAsOne() async throws {
        try await TestAPI.with { api in
            func status(_ fields: String) async throws -> Substring {
                let answer = try await api.exchange("GET /api/health HTTP/1.1\r\n\(fields)Connection: close\r\n\r\n")
                return answer.prefix(12)
            }
            for fields in [
                "Host: a\r\nHost: b\r\n", "Host: a\r\nX: y\r\nhOST: a\r\n", "Host: a/b\r\n", "Host: a, b\r\n",
            ] {
                let answered = try await status(fields)
                #expect(answered == "HTTP/1.1 400", "\(fields)")
            }
            for fields in ["Host: a.example:80\r\n", "Host: [::1]:3000\r\n", ""] {
                let answered = try await status(fields)
                #expect(answered == "HTTP/1.1 200", "\(fields)")
            }
        }
    }
}

extension TestAPI {
    /// With a connection that is known to be one of those that are served, since it was answered on.
    fileprivate func withOpenConnection(_ body: () async throws -> Void) async throws {
        try await connect().executeThenClose { inbound, outbound in
            try await outbound.write(ByteBuffer(string: "GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"))
            var answers = inbound.makeAsyncIterator()
            #expect(try await answers.next() != nil)
            try await body()
        }
    }

    private func connect() async throws -> NIOAsyncChannel<ByteBuffer, ByteBuffer> {
        try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .connect(host: "127.0.0.1", port: URL(string: base)?.port ?? 0) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
    }

    /// Sends bytes, and more after a first answer and a pause; everything that comes until the API closes the connection.
    fileprivate func exchange(_ first: String, then second: String = "", after pause: Duration = .zero) async throws
        -> String
    {
        try await connect().executeThenClose { inbound, outbound in
            if !first.isEmpty { try? await outbound.write(ByteBuffer(string: first)) }
            var (answer, isFirst) = ("", true)
            do {
                for try await piece in inbound {
                    answer += String(buffer: piece)
                    guard isFirst, !second.isEmpty else { continue }
                    isFirst = false
                    try await Task.sleep(for: pause)
                    try await outbound.write(ByteBuffer(string: second))
                }
            } catch is IOError {
                // Reset, because we had sent what it did not read.
            }
            return answer
        }
    }
}

extension String {
    fileprivate func components(_ mark: String) -> Int {
        var (count, rest) = (0, self[...])
        while let found = rest.firstRange(of: mark) {
            count += 1
            rest = rest[found.upperBound...]
        }
        return count
    }
}
