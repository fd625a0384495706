import Domain
import Store
import Testing
import TestSupport

@testable import API

@Suite struct SandboxRouteTests {
    @Test func createsReadsAndDeletes() async throws {
        try await TestAPI.with({ $0.limits.createHold = .seconds(60) }) { api in
            try await api.database.withRunner { runner in
                try await withRunning(runner) {
                    let made = try await api.send(
                        "POST",
                        "/api/sandbox",
                        json:
                            #"{"name":"a/b c","env":{"A":"1"},"labels":{"code-toolbox-language":"python"},"volumes":[],"cpu":2}"#
                    )
                    #expect(made.status == 200, "\(made.text)")
                    #expect(made["state"] == "started")
                    #expect(made["cpu"] == 2)
                    #expect(made["memory"] == 1)
                    #expect(made["toolboxProxyUrl"] == "http://proxy.test/toolbox")
                    #expect(made["runnerId"].text == runner.id.description)
                    for field in [
                        "id", "organizationId", "user", "env", "labels", "public", "networkBlockAll", "kvm", "target",
                        "gpu", "disk",
                    ] {
                        #expect(made[field] != .null, "\(field) is required by the SDK")
                    }
                    let id = made["id"].text
                    #expect(try await api.send("GET", "/api/sandbox/\(id)")["name"] == "a/b c")
                    #expect(try await api.send("GET", "/api/sandbox/a%2Fb%20c")["id"].text == id)
                    let stopped = try await api.send("POST", "/api/sandbox/\(id)/stop")
                    #expect(stopped["state"] == "stopped" || stopped["state"] == "stopping")
                    let deleted = try await api.send("DELETE", "/api/sandbox/\(id)")
                    #expect(deleted.status == 200)
                    #expect(deleted["state"] == "destroying" || deleted["state"] == "destroyed")
                    try await poll { try await api.send("GET", "/api/sandbox/\(id)").status == 404 }
                    #expect(try await api.send("DELETE", "/api/sandbox/\(id)").status == 404)
                }
            }
        }
    }

    @Test func waitsWithoutRoomAndIsDestroyedAtOnce() async throws {
        try await TestAPI.with { api in
            let made = try await api.send("POST", "/api/sandbox", json: "{}")
            #expect(made.status == 200, "\(made.text)")
            #expect(made["state"] == "creating")
            #expect(made["name"].text == made["id"].text)
            let deleted = try await api.send("DELETE", "/api/sandbox/\(made["id"].text)")
            #expect(deleted["state"] == "destroyed")
            #expect(try await api.send("GET", "/api/sandbox/\(made["id"].text)").status == 404)
        }
    }
}

/// Runs the runner's reconciling for the time of `body`.
func withRunning(_ runner: TestRunner, _ body: () async throws -> Void) async throws {
    let reconciling = Task { await runner.run() }  // owned: cancelled and awaited in both ways out
    do {
        try await body()
        reconciling.cancel()
        await reconciling.value
    } catch {
        reconciling.cancel()
        await reconciling.value
        throw error
    }
}

/// Asks until it is so; fails after a minute.
func poll(_ isSo: () async throws -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(60)
    while try await !isSo() {
        guard ContinuousClock.now < deadline else {
            Issue.record("did not become so within 60 s")
            return
        }
        try await Task.sleep(for: .milliseconds(20))
    }
}
