import Runner
import Testing

/// Requests that two parsers could read differently are refused, and nothing of them reaches a sandbox (ABUSE E1, E4, E10).
@Suite(.timeLimit(.minutes(5)))
struct SmugglingTests {
    /// Parts of a request that replace the good ones: target and version, then fields and body.
    static let vectors: [(line: String?, fields: String)] = [
        (nil, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (nil, "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (nil, "Content-Length: 5, 5\r\n\r\nhello"),
        (nil, "Content-Length: +5\r\n\r\nhello"),
        (nil, "Content-Length: 0x5\r\n\r\nhello"),
        (nil, "Content-Length: -1\r\n\r\n"),
        (nil, "Content-Length: 99999999999999999999\r\n\r\n"),
        (nil, "Content-Length:\r\n\r\n"),
        (nil, "Content-Length : 5\r\n\r\nhello"),
        (nil, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (nil, "Transfer-Encoding: identity\r\n\r\n"),
        (nil, "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (nil, "Transfer-Encoding: xchunked\r\n\r\n"),
        (nil, "Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n"),
        (nil, "Transfer-Encoding:\tchunked \r\nX: y\r\n z\r\n\r\n0\r\n\r\n"),
        (nil, "X: a\r\n folded\r\n\r\n"),
        (nil, "X: a\nY: b\r\n\r\n"),
        (nil, "X: a\rY: b\r\n\r\n"),
        (nil, "X: a\u{0}b\r\n\r\n"),
        (nil, ": empty\r\n\r\n"),
        (nil, "X Y: z\r\n\r\n"),
        (nil, "no colon\r\n\r\n"),
        (nil, "Host: second\r\n\r\n"),
        (nil, "Authorization: Bearer other\r\n\r\n"),
        (nil, "Expect: 200-maybe\r\n\r\n"),
        ("GET http://proxy.test{path} HTTP/1.1", "\r\n"),
        ("GET {path} HTTP/1.1 ", "\r\n"),
        ("GET  {path} HTTP/1.1", "\r\n"),
        ("GET\t{path} HTTP/1.1", "\r\n"),
        (" GET {path} HTTP/1.1", "\r\n"),
        ("\r\nGET {path} HTTP/1.1", "\r\n"),
        ("GET {path}", "\r\n"),
        ("GET {path} HTTP/2.0", "\r\n"),
        ("GET {path} HTTP/1.10", "\r\n"),
        ("GET {path} http/1.1", "\r\n"),
        ("GET {path}#fragment HTTP/1.1", "\r\n"),
        ("GET {path}\u{7f} HTTP/1.1", "\r\n"),
        ("GET {path}ä HTTP/1.1", "\r\n"),
        ("G@T {path} HTTP/1.1", "\r\n"),
        ("CONNECT proxy.test:443 HTTP/1.1", "\r\n"),
        ("OPTIONS * HTTP/1.1", "\r\n"),
        ("GET {path} HTTP/1.0", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ]

    @Test func aMalformedRequestIsRefusedAndItsConnectionClosed() async throws {
        try await TestPath.with { path in
            for vector in Self.vectors {
                let line = (vector.line ?? "POST {path} HTTP/1.1").replacing(
                    "{path}",
                    with: "/toolbox/\(path.sandbox)/x"
                )
                let answer = try await Wire.connect(to: path.proxy) { client in
                    try await client.send(
                        "\(line)\r\nHost: proxy.test\r\nAuthorization: Bearer \(path.key)\r\n\(vector.fields)"
                    )
                    let answer = try await client.readMessage()
                    #expect(try await client.readToEnd() == "", "\(line) \(vector.fields)")
                    return answer
                }
                #expect([400, 417, 501, 505].contains(answer.status), "\(line) \(vector.fields): \(answer.head)")
            }
            for host in ["", "a b", "a/b", "user@host", "a\u{0}", String(repeating: "a", count: 300)] {
                let answer = try await path.fetch("GET /health HTTP/1.1\r\nHost: \(host)\r\n\r\n")
                #expect(answer.status == 400, "Host: \(host)")
            }
            #expect(try await path.fetch("GET /health HTTP/1.1\r\n\r\n").status == 400)
            #expect(path.ingressServer.openTunnels == 0)
            // The control.
            #expect(try await path.fetch("GET /health HTTP/1.1\r\nHost: proxy.test\r\n\r\n").status == 200)
        }
    }

    @Test(arguments: [
        "5\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n", "\r\n",
        "ffffffffffffffff\r\n",
        "5\r\nhello\r\n0\r\nX-Martlet-Token: y\r\n\r\n",
        "5;\(String(repeating: "x", count: 300))\r\nhello\r\n0\r\n\r\n",
    ])
    func brokenChunksAreRefused(body: String) async throws {
        try await TestPath.with { path in
            let answer = try await path.fetch(
                path.request("POST", "/", fields: "Transfer-Encoding: chunked\r\n", body: body)
            )
            #expect(answer.status == 400 || answer.status == 501)
        }
    }

    @Test func aBodyIsNeverTakenForTheNextRequest() async throws {
        try await TestPath.with { path in
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
            try await path.run { server in
                #expect(try await server.readMessage().body == smuggled)
                try await server.answer("one")
                #expect(try await server.readMessage().firstLine == "GET /next HTTP/1.1")
                try await server.answer("two")
            } client: { client in
                try await client.send(
                    path.request("POST", "/", fields: "Content-Length: \(smuggled.utf8.count)\r\n", body: smuggled)
                        + path.request("GET", "/next")
                )
                #expect(try await client.readMessage().body == "one")
                #expect(try await client.readMessage().body == "two")
            }
        }
    }

    @Test func anAnswerWithMoreThanItsLengthDoesNotReachTheNextClient() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
                )
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().body == "ok")
            }
            // The tunnel is not used again: the next request arrives on a new one.
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.answer("clean")
            } client: { client in
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().body == "clean")
            }
        }
    }
}
