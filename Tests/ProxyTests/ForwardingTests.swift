import Testing

@Suite(.timeLimit(.minutes(1)))
struct ForwardingTests {
    @Test func aRequestReachesTheServerInTheSandboxAndItsAnswerComesBack() async throws {
        try await TestPath.with { path in
            let answer = try await path.run { server in
                let request = try await server.readMessage()
                #expect(request.firstLine == "GET /version?a=%2F&b=c%20d HTTP/1.1")
                try await server.answer("hello")
            } client: { client in
                try await client.send(path.request("GET", "/version?a=%2F&b=c%20d"))
                return try await client.readMessage()
            }
            #expect(answer.status == 200)
            #expect(answer.body == "hello")
        }
    }
}
