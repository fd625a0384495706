import Postgres
import Store
import TestSupport
import Testing

@testable import API

@Suite struct ValidationTests {
    /// A body, the status, and words that the message must hold.
    static let badBodies: [(String, Int, [String])] = [
        (#"{"name":""}"#, 400, ["name"]),
        (#"{"name":"\#(String(repeating: "n", count: 129))"}"#, 400, ["name", "128"]),
        (#"{"name":"a\nb"}"#, 400, ["name"]),
        (#"{"name":7}"#, 400, ["name", "string"]),
        (#"{"env":{"1A":"x"}}"#, 400, ["env.1A"]),
        (#"{"env":{"MARTLET_DAEMON_TOKEN":"x"}}"#, 400, ["reserved"]),
        (#"{"env":{"A":1}}"#, 400, ["env.A"]),
        (#"{"env":[]}"#, 400, ["env"]),
        (#"{"labels":{"":"x"}}"#, 400, ["labels"]),
        (#"{"labels":{"code-toolbox-language":"cobol"}}"#, 400, ["code-toolbox-language", "cobol", "python"]),
        (#"{"cpu":0}"#, 400, ["cpu is 0"]), (#"{"cpu":65}"#, 400, ["cpu is 65", "64"]),
        (#"{"cpu":1.5}"#, 400, ["cpu"]), (#"{"cpu":"2"}"#, 400, ["cpu", "string"]),
        (#"{"memory":0}"#, 400, ["memory"]), (#"{"memory":257}"#, 400, ["memory", "256"]),
        (#"{"disk":1025}"#, 400, ["disk", "1024"]),
        (#"{"gpu":1}"#, 400, ["gpu is 1", "no runner"]),
        (#"{"gpuType":["H99"]}"#, 400, ["H99"]),
        (#"{"autoStopInterval":-1}"#, 400, ["autoStopInterval"]),
        (#"{"autoArchiveInterval":-1}"#, 400, ["autoArchiveInterval"]),
        (#"{"autoStopInterval":5,"autoPauseInterval":5}"#, 400, ["autoPauseInterval", "autoStopInterval"]),
        (#"{"autoPauseInterval":5}"#, 400, ["autoPauseInterval", "pause"]),
        (#"{"ttlMinutes":-1}"#, 400, ["ttlMinutes"]),
        (#"{"queueTimeout":0}"#, 400, ["queueTimeout is 0"]),
        (#"{"public":"yes"}"#, 400, ["public"]),
        (#"{"recordTerminals":"yes"}"#, 400, ["recordTerminals"]),
        (#"{"user":"Root!"}"#, 400, ["user"]),
        (#"{"target":"mars"}"#, 404, ["mars", "test"]),
        (#"{"snapshot":"nope"}"#, 400, ["nope"]),
        (#"{"snapshot":"default","cpu":1}"#, 400, ["snapshot and cpu"]),
        (
            #"{"snapshot":"default","buildInfo":{"dockerfileContent":"FROM x"},"cpu":1}"#, 400,
            ["snapshot and cpu", "buildInfo"]
        ),
        (#"{"buildInfo":"FROM x"}"#, 400, ["buildInfo", "object"]),
        (#"{"buildInfo":{"dockerfileContent":"FROM x","dockerfile":1}}"#, 400, ["buildInfo", "dockerfile"]),
        (#"{"buildInfo":{"dockerfileContent":"FROM x\nADD http://x /x"}}"#, 400, ["buildInfo", "line 2", "ADD"]),
        (#"{"buildInfo":{"dockerfileContent":"FROM 169.254.169.254/x"}}"#, 400, ["buildInfo", "private"]),
        (#"{"buildInfo":{"dockerfileContent":"FROM x","contextHashes":["../x"]}}"#, 400, ["contextHashes", "MD5"]),
        (
            #"{"buildInfo":{"dockerfileContent":"FROM x","contextHashes":["\#(String(repeating: "0", count: 32))"]}}"#,
            400,
            ["contextHashes", "not uploaded"]
        ),
        (#"{"volumes":[{"volumeId":"v","mountPath":"/v"}]}"#, 400, ["volume 'v' does not exist"]),
        (#"{"volumes":{}}"#, 400, ["volumes is an object"]), (#"{"volumes":["v"]}"#, 400, ["objects only"]),
        (#"{"volumes":[{"mountPath":"/v"}]}"#, 400, ["volumes[0].volumeId is missing"]),
        (#"{"volumes":[{"volumeId":"v"}]}"#, 400, ["volumes[0].mountPath is missing"]),
        (#"{"volumes":[{"volumeId":"v","mountPath":"/v","mode":"ro"}]}"#, 400, ["volumes[0].mode is not a field"]),
        (#"{"volumes":[{"volumeId":"v","mountPath":"data"}]}"#, 400, ["mountPath is 'data'", "absolute"]),
        (#"{"volumes":[{"volumeId":"v","mountPath":"/v","subpath":"a/../b"}]}"#, 400, ["subpath is 'a/../b'", "'..'"]),
        (
            #"{"volumes":[{"volumeId":"v","mountPath":"/v"},{"volumeId":"w","mountPath":"/v/w"}]}"#, 400,
            ["'/v/w' lies within '/v'"]
        ),
        (
            #"{"volumes":[\#((0..<17).map { #"{"volumeId":"v","mountPath":"/v\#($0)"}"# }.joined(separator: ","))]}"#,
            400,
            ["17 entries", "16"]
        ),
        (#"{"secrets":[{"A":"b"}]}"#, 501, ["secrets"]),
        (#"{"kvm":true}"#, 501, ["kvm"]), (#"{"spot":true}"#, 501, ["spot"]),
        (#"{"linkedSandbox":"x"}"#, 501, ["linkedSandbox"]),
        (#"{"outboundProxyUrl":"http://x"}"#, 501, ["outboundProxyUrl"]),
        (#"{"domainAllowList":"example.com"}"#, 501, ["domainAllowList"]),
        (#"{"otelEndpointOverride":"http://x"}"#, 501, ["otelEndpointOverride"]),
        (#"{"networkAllowList":"10.0.0.0"}"#, 400, ["prefix"]),
        (#"{"networkAllowList":"10.0.0.1/8"}"#, 400, ["10.0.0.0/8"]),
        (#"{"networkAllowList":"010.0.0.0/8"}"#, 400, ["networkAllowList"]),
        (#"{"networkAllowList":"1.2.3/8"}"#, 400, ["networkAllowList"]),
        (#"{"networkAllowList":"1.2.3.4/33"}"#, 400, ["networkAllowList"]),
        (#"{"networkAllowList":"::/0"}"#, 400, ["networkAllowList"]),
        (#"{"networkAllowList":"\#((0..<11).map { "10.0.\($0).0/24" }.joined(separator: ","))"}"#, 400, ["11", "10"]),
        (#"{"networkBlockAll":true,"networkAllowList":"10.0.0.0/8"}"#, 400, ["networkBlockAll"]),
        (#"{"networkBlockall":true}"#, 400, ["networkBlockall is not a field"]),
        (#"{"cpu":0,"memory":0,"name":"","ttlMinutes":-5}"#, 400, ["cpu", "memory", "name", "ttlMinutes"]),
        ("[]", 400, ["object"]), ("{", 400, ["JSON"]),
    ]

    @Test func everyBadFieldIsNamedAndNothingIsWritten() async throws {
        try await TestAPI.with { api in
            for (body, status, words) in Self.badBodies {
                let answer = try await api.send("POST", "/api/sandbox", json: body)
                #expect(answer.status == status, "\(body): \(answer.text)")
                for word in words { #expect(answer.message.contains(word), "\(body): \(answer.message)") }
                expectErrorShape(answer, "/api/sandbox")
            }
            let rows: Int = try await api.database.owner.queryFirst("SELECT count(*) AS rows FROM sandbox")!["rows"]
            #expect(rows == 0)
        }
    }

    @Test func whatIsNothingIsAccepted() async throws {
        try await TestAPI.with { api in
            let answer = try await api.send(
                "POST",
                "/api/sandbox",
                json: """
                    {"volumes":[],"secrets":[],"kvm":false,"spot":false,"gpu":0,"buildInfo":null,"domainAllowList":"",
                    "networkAllowList":"10.0.0.0/8, 192.0.2.0/24","autoStopInterval":0,"autoArchiveInterval":0,
                    "autoDeleteInterval":-5,"ttlMinutes":0,"autoPauseInterval":0,"env":{"A":""}}
                    """
            )
            #expect(answer.status == 200, "\(answer.text)")
            #expect(answer["networkAllowList"] == "10.0.0.0/8,192.0.2.0/24")
            #expect(answer["autoArchiveInterval"] == 43200)
            #expect(answer["autoDeleteInterval"] == -1)
            #expect(answer["autoDestroyAt"] == .null)
        }
    }

    @Test func gpusAreAskedForWhereThereAreSome() async throws {
        try await TestAPI.with { api in
            try await api.database.withRunner(gpu: 2, gpuType: "H100") { _ in
                let made = try await api.send("POST", "/api/sandbox", json: #"{"gpu":1,"gpuType":["B200","H100"]}"#)
                #expect(made.status == 200, "\(made.text)")
                #expect(made["gpu"] == 1)
                #expect(made["gpuType"] == "H100")
                let other = try await api.send("POST", "/api/sandbox", json: #"{"gpu":1,"gpuType":["B200"]}"#)
                #expect(other.status == 400)
                #expect(other.message.contains("H100"))
            }
        }
    }

    /// It would wait for ever.
    @Test func whatNoRunnerCouldHoldIsRefused() async throws {
        try await TestAPI.with { api in
            try await api.database.withRunner(cpu: 8, memoryGib: 16) { _ in
                let wide = try await api.send("POST", "/api/sandbox", json: #"{"cpu":9}"#)
                #expect(wide.status == 400)
                #expect(wide.message.contains("cpu is 9") && wide.message.contains("8 CPUs"), "\(wide.message)")
                #expect(try await api.send("POST", "/api/sandbox", json: #"{"cpu":8,"memory":16}"#).status == 200)
            }
        }
    }

    @Test func badQueriesAreNamed() async throws {
        try await TestAPI.with { api in
            let bad = [
                "limit=0", "limit=201", "limit=x", "sort=color", "order=up", "isPublic=1", "isRecoverable=TRUE",
                "states=flying",
                "labels=%5B%5D", "labels=x", "minCpu=-1", "maxCpu=nan", "createdAtAfter=yesterday", "cursor=abc",
                "createdAtAfter=2026-13-01T00:00:00Z", "includeWarm=yes", "name=%00",
            ]
            for query in bad {
                let answer = try await api.send("GET", "/api/sandbox?\(query)")
                #expect(answer.status == 400, "\(query): \(answer.text)")
            }
            let times = "createdAtAfter=2026-01-01T00%3A00%3A00.000000%2B0000&createdAtBefore=2099-01-01T00:00:00.123"
            #expect(try await api.send("GET", "/api/sandbox?\(times)&states=started&states=stopped").status == 200)
        }
    }

    @Test func bodiesAreBounded() async throws {
        try await TestAPI.with { api in
            let answer = try await api.send(
                "POST",
                "/api/sandbox",
                json: #"{"name":"\#(String(repeating: "x", count: 1 << 20))"}"#
            )
            #expect(answer.status == 413)
            expectErrorShape(answer, "/api/sandbox")
        }
    }
}

func expectErrorShape(_ answer: Answer, _ path: String) {
    #expect(answer["statusCode"] == .integer(answer.status))
    #expect(answer["path"].text == path)
    #expect(answer["source"] == "DAYTONA_API")
    #expect(!answer["error"].text.isEmpty)
    #expect(!answer["code"].text.isEmpty)
    #expect(!answer.message.isEmpty)
    #expect(answer["timestamp"].text.hasSuffix("Z"))
}
