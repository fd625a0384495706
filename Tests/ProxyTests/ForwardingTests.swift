import Domain
import Runner
import Testing

/// What the proxy changes in a message, and that it changes nothing else.
@Suite(.timeLimit(.minutes(5)))
struct ForwardingTests {
    @Test func aRequestReachesTheSandboxByteForByte() async throws {
        try await TestPath.with { path in
            let answer = try await path.run { server in
                let request = try await server.readMessage()
                #expect(request.firstLine == "POST /a%2Fb/../c?x=%2f&y=c+d&z=%00 HTTP/1.1")
                #expect(request.body == "{\"command\":\"true\"}")
                #expect(request["x-custom"] == "A, b;c=\"d\"")
                #expect(request["cookie"] == "k=v")
                #expect(request["host"] == "proxy.test")
                try await server.answer("hello", extra: "X-Answer: 1\r\nX-Answer: 2\r\n")
            } client: { client in
                try await client.send(
                    path.request(
                        "POST",
                        "/a%2Fb/../c?x=%2f&y=c+d&z=%00",
                        fields: "X-Custom:A, b;c=\"d\"\r\nCookie: k=v\r\nContent-Length: 18\r\n",
                        body: "{\"command\":\"true\"}"
                    )
                )
                return try await client.readMessage()
            }
            #expect(answer.firstLine == "HTTP/1.1 200 OK")
            #expect(answer.body == "hello")
            #expect(answer.values("x-answer") == ["1", "2"])
        }
    }

    @Test func fieldsOfThisHopAndOfOursDoNotPass() async throws {
        try await TestPath.with { path in
            let answer = try await path.run { server in
                let request = try await server.readMessage()
                for name in [
                    "keep-alive", "te", "proxy-authorization", "x-named", "forwarded", "x-real-ip", "authorization",
                    "x-daytona-preview-token", "x-martlet-epoch", "upgrade", "connection", "trailer",
                ] {
                    #expect(request[name] == nil, "\(name) passed")
                }
                #expect(request.values("x-martlet-token") == ["t0ken"])
                #expect(request.values("x-forwarded-for") == ["127.0.0.1"])
                #expect(request.values("x-forwarded-host") == ["proxy.test"])
                #expect(request.values("x-forwarded-proto") == ["http"])
                #expect(request["x-request-id"] != nil)
                try await server.answer(
                    extra:
                        "Connection: X-Inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nX-Martlet-Secret: s\r\n"
                )
            } client: { client in
                try await client.send(
                    path.request(
                        "GET",
                        "/",
                        fields: """
                            Connection: keep-alive, X-Named, host\r\nX-Named: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x\r\n\
                            Proxy-Authorization: x\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n\
                            X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Martlet-Token: forged\r\nx-martlet-Epoch: 9\r\n\
                            X-Daytona-Preview-Token: p\r\nUpgrade: h2c\r\n
                            """
                    )
                )
                return try await client.readMessage()
            }
            for name in ["x-inner", "keep-alive", "proxy-authenticate", "x-martlet-secret", "connection"] {
                #expect(answer[name] == nil, "\(name) passed")
            }
        }
    }

    @Test func aRequestIDIsKept() async throws {
        try await TestPath.with { path in
            _ = try await path.run { server in
                #expect(try await server.readMessage().values("x-request-id") == ["mine"])
                try await server.answer()
            } client: { client in
                try await client.send(path.request("GET", "/", fields: "X-Request-Id: mine\r\n"))
                return try await client.readMessage()
            }
        }
    }

    @Test(arguments: TestPath.Handover.bothWays)
    func oneTunnelServesManyRequests(handover: TestPath.Handover) async throws {
        try await TestPath.with(handover: handover) { path in
            try await path.run { server in
                for number in 0..<20 {
                    #expect(try await server.readMessage().firstLine == "GET /\(number) HTTP/1.1")
                    try await server.answer("\(number)")
                }
            } client: { client in
                for number in 0..<20 {
                    try await client.send(path.request("GET", "/\(number)"))
                    #expect(try await client.readMessage().body == "\(number)")
                    if number == 10 { #expect(path.ingressServer.openTunnels == 1) }
                }
            }
        }
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                for number in 0..<5 {
                    #expect(try await server.readMessage().firstLine == "GET /\(number) HTTP/1.1")
                    try await server.answer("\(number)")
                }
            } client: { client in
                try await client.send((0..<5).map { path.request("GET", "/\($0)") }.joined())
                for number in 0..<5 { #expect(try await client.readMessage().body == "\(number)") }
            }
        }
    }

    @Test func chunksPassBothWaysWithTrailers() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                let request = try await server.readHead()
                #expect(Message(head: request)["transfer-encoding"] == "chunked")
                #expect(try await server.read(through: "0\r\n\r\n") == "5\r\nhello\r\n0\r\n\r\n")
                try await server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
                try await server.send("0\r\nServer-Timing: x\r\n\r\n")
                #expect(try await server.readMessage().firstLine == "GET /next HTTP/1.1")
                try await server.answer()
            } client: { client in
                try await client.send(
                    path.request("POST", "/", fields: "Transfer-Encoding: chunked\r\n", body: "5\r\nhello\r\n0\r\n\r\n")
                )
                _ = try await client.readHead()
                #expect(try await client.read(through: "\r\n\r\n") == "3\r\nabc\r\n0\r\nServer-Timing: x\r\n\r\n")
                try await client.send(path.request("GET", "/next"))
                #expect(try await client.readMessage().body == "ok")
            }
        }
    }

    @Test func aBodyThatEndsByClosingIsSentInChunks() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send("HTTP/1.1 200 OK\r\n\r\nuntil the end")
                server.finish()
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("GET", "/"))
                #expect(Message(head: try await client.readHead())["transfer-encoding"] == "chunked")
                #expect(try await client.read(through: "0\r\n\r\n") == "d\r\nuntil the end\r\n0\r\n\r\n")
            }
        }
    }

    @Test func anOldClientGetsItsBodyWithoutChunks() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readMessage()
                try await server.send(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
                )
                server.finish()
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(
                    "GET /toolbox/\(path.sandbox)/ HTTP/1.0\r\nAuthorization: Bearer \(path.key)\r\n\r\n"
                )
                let answer = Message(head: try await client.readHead())
                #expect(answer["transfer-encoding"] == nil)
                #expect(answer["connection"] == "close")
                #expect(try await client.readToEnd() == "abcde")
            }
        }
    }

    @Test func answersWithoutBodyLeaveTheConnectionInStep() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                for status in ["204 No Content", "304 Not Modified"] {
                    _ = try await server.readMessage()
                    try await server.send("HTTP/1.1 \(status)\r\nETag: x\r\n\r\n")
                }
                #expect(try await server.readMessage().firstLine == "HEAD /head HTTP/1.1")
                try await server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                _ = try await server.readMessage()
                try await server.answer("last")
            } client: { client in
                for status in [204, 304] {
                    try await client.send(path.request("GET", "/"))
                    #expect(Message(head: try await client.readHead()).status == status)
                }
                try await client.send(path.request("HEAD", "/head"))
                #expect(Message(head: try await client.readHead())["content-length"] == "1000")
                try await client.send(path.request("GET", "/"))
                #expect(try await client.readMessage().body == "last")
            }
        }
    }

    @Test func theProxyAnswersExpectationsAndPassesHints() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                let head = Message(head: try await server.readHead())
                #expect(head["expect"] == nil)
                try await server.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
                #expect(try await server.read(4) == "body")
                try await server.answer()
            } client: { client in
                try await client.send(
                    path.request("POST", "/", fields: "Expect: 100-continue\r\nContent-Length: 4\r\n")
                )
                #expect(try await client.readHead() == "HTTP/1.1 100 Continue\r\n\r\n")
                #expect(try await client.readHead() == "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
                try await client.send("body")
                #expect(try await client.readMessage().body == "ok")
            }
        }
    }

    @Test func anEarlyAnswerReachesAClientThatIsStillSending() async throws {
        try await TestPath.with { path in
            try await path.run { server in
                _ = try await server.readHead()
                try await server.answer("too large", status: "413 Content Too Large")
                _ = try? await server.readToEnd()
            } client: { client in
                try await client.send(path.request("POST", "/", fields: "Content-Length: 100000000\r\n", body: "begin"))
                #expect(try await client.readMessage().status == 413)
                #expect(try await client.readToEnd() == "")
            }
        }
    }

    @Test func thePathsOfTheProxyItself() async throws {
        try await TestPath.with { path in
            try await Wire.connect(to: path.proxy) { client in
                try await client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                #expect(try await client.readMessage().body == "{\"status\":\"ok\"}")
                try await client.send(
                    "GET / HTTP/1.1\r\nHost: 3000-\(path.sandbox).proxy.test\r\nConnection: close\r\n\r\n"
                )
                #expect(try await client.readMessage().status == 501)
            }
            let id = path.sandbox.description
            for target in [
                "/", "/toolbox", "/toolbox/", "/toolbox//\(id)/version", "/toolbox/\(id)//version",
                "/toolbox/\(id)/a//b", "/toolbox/\(id.uppercased())/version", "/toolbox/\(id)x/version",
                "/toolbox/name/version",
                "/toolbox/%\(id.dropFirst())/", "//toolbox/\(id)/version", "/Toolbox/\(id)/version",
            ] {
                let answer = try await path.fetch(
                    "GET \(target) HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \(path.key)\r\n\r\n"
                )
                #expect(answer.status == 404, "\(target)")
                #expect(answer.body.contains("\"source\":\"DAYTONA_PROXY\""))
            }
        }
    }
}
