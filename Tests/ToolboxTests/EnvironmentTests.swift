import FoundationEssentials
import NIOCore
import NIOHTTP1
import Testing

@testable import Toolbox

extension DaemonSuites {
    @Suite("Environment", .serialized, .timeLimit(.minutes(5)))
    struct EnvironmentRouteTests {
        private func update(_ daemon: TestDaemon, _ body: String) async throws -> TestClient.Answer {
            try await daemon.client.call(.POST, "/env", body: body)
        }

        private func shown(_ daemon: TestDaemon) async throws -> String {
            try await daemon.execute("echo ${VA-unset},${VB-unset},${VC-unset}").body.result
        }

        @Test("Set, unset, by prefix of the value, in that order; a body without a content type; a map as the answer")
        func updates() async throws {
            try await TestDaemon.run { daemon async throws in
                let answer = try await update(daemon, #"{"set":{"VA":"secret-1","VB":"secret-2","VC":"3"}}"#)
                #expect(answer.status == 200 && answer.headers["Content-Type"] == ["application/json"])
                let map = try JSONDecoder().decode([String: String].self, from: Data(answer.body.readableBytesView))
                #expect(!map.isEmpty)
                #expect(try await shown(daemon) == "secret-1,secret-2,3\n")
                // The control plane exchanges placeholders: all old ones go, those of now are set.
                #expect(
                    try await update(daemon, #"{"unsetValuePrefix":"secret-","set":{"VB":"secret-9"}}"#).status == 200
                )
                #expect(try await shown(daemon) == "unset,secret-9,3\n")
                #expect(
                    try await update(daemon, #"{"unset":["VB","VC","NEVER_THERE"],"set":{"VC":"again"}}"#).status == 200
                )
                #expect(try await shown(daemon) == "unset,unset,again\n")
                #expect(try await update(daemon, #"{"unsetValuePrefix":""}"#).status == 200)
                #expect(try await update(daemon, "{}").status == 200)
                #expect(try await update(daemon, #"{"set":null,"unset":null,"unsetValuePrefix":null}"#).status == 200)
                #expect(try await shown(daemon) == "unset,unset,again\n")
            }
        }

        @Test("What is bad changes nothing, and the error names it")
        func refusals() async throws {
            try await TestDaemon.run { daemon async throws in
                #expect(try await update(daemon, #"{"set":{"VA":"kept"}}"#).status == 200)
                let long = String(repeating: "x", count: EnvironmentLimit.variableBytes)
                let bodies = [
                    (#"{"unset":["VA"],"set":{"VB":"x","not a name":"y"}}"#, "not a name"),
                    (#"{"unset":["VA"],"set":{"1A":"y"}}"#, "1A"), (#"{"unset":["VA"],"set":{"":"y"}}"#, "''"),
                    (#"{"unset":["VA"],"set":{"VB":"a\u0000b"}}"#, "VB"), (#"{"unset":["VA"],"set":{"VB":7}}"#, "VB"),
                    (#"{"unset":["VA"],"set":{"VB":"\#(long)"}}"#, "VB"), (#"{"unset":"VA"}"#, "unset"), ("", "JSON"),
                    ("[]", ""),
                ]
                for (body, named) in bodies {
                    let answer = try await update(daemon, body)
                    #expect(answer.status == 400, "\(body.prefix(80))")
                    #expect(answer.text.contains(named), "\(answer.text.prefix(300))")
                }
                #expect(try await shown(daemon) == "kept,unset,unset\n")
            }
        }

        @Test("It cannot grow beyond what programs can be started with")
        func sizeLimit() async throws {
            try await TestDaemon.run { daemon async throws in
                let value = String(repeating: "x", count: 100_000)
                var refused = 0
                for number in 0..<20 {
                    let status = try await update(daemon, #"{"set":{"BIG\#(number)":"\#(value)"}}"#).status
                    if status == 400 { refused += 1 }
                }
                #expect((1...19).contains(refused))
                #expect(try await daemon.execute("echo still works").body.result == "still works\n")
                let own = #"{"command":"true","envs":{"A":"\#(value)","B":"\#(value)"}}"#
                #expect(try await daemon.client.call(.POST, "/process/execute", body: own).status == 400)
                #expect(try await update(daemon, #"{"unsetValuePrefix":"xxx"}"#).status == 200)
                #expect(try await daemon.client.call(.POST, "/process/execute", body: own).status == 200)
            }
        }
    }
}

@Suite("Environment store")
struct EnvironmentStoreTests {
    @Test("Updates agree with the obvious order of steps")
    func model() throws {
        var random = SeededGenerator()
        let (names, values) = (["A", "B", "C", "D"], ["p-1", "p-2", "q", "", "p"])
        for _ in 0..<500 {
            var model: [String: String] = [:]
            let store = EnvironmentStore([:])
            for _ in 0..<5 {
                var set: [String: String] = [:]
                for name in names where Bool.random(using: &random) { set[name] = values.randomElement(using: &random) }
                let unset = names.filter { _ in Bool.random(using: &random) }
                let prefix = ["p-", "p", "", nil].randomElement(using: &random) ?? nil
                try store.update(set: set, unset: unset, unsetValuePrefix: prefix)
                if let prefix, !prefix.isEmpty { model = model.filter { !$0.value.hasPrefix(prefix) } }
                for name in unset { model[name] = nil }
                for (name, value) in set { model[name] = value }
                #expect(store.current == model, "seed \(random.seed)")
            }
        }
    }

    @Test("The daemon's own variables are never handed on")
    func ownVariables() {
        #expect(EnvironmentStore(["MARTLET_DAEMON_TOKEN": "x", "A": "1"]).current == ["A": "1"])
    }
}
