import Domain
import Postgres
import Store
import TestSupport
import Testing

@testable import API

@Suite struct LifecycleTests {
    @Test func startsStopsResizesAndRecovers() async throws {
        try await TestAPI.with { api in
            try await api.database.withRunner { runner in
                let one = try await api.database.makeSandbox(of: api.tenant)
                let path = "/api/sandbox/\(one.id)"
                try await expect(api, "POST", "\(path)/stop", 409, "creating")
                try await runner.report(one.id, .started)
                try await expect(api, "POST", "\(path)/start", 200)
                try await expect(api, "POST", "\(path)/recover", 400)
                try await expect(api, "POST", "\(path)/resize", 400, "nothing would change")
                try await expect(api, "POST", "\(path)/resize", json: #"{"disk":9}"#, 400, "stopped")
                try await expect(api, "POST", "\(path)/resize", json: #"{"cpu":0}"#, 400, "cpu")
                let resizing = try await api.send("POST", "\(path)/resize", json: #"{"cpu":2,"memory":4}"#)
                #expect(resizing["state"] == "resizing", "\(resizing.text)")
                try await expect(api, "POST", "\(path)/resize", json: #"{"cpu":3}"#, 409)
                try await expect(api, "POST", "\(path)/start", 409)
                try await expect(api, "POST", "\(path)/stop", 409)
                try await runner.report(one.id, .started)
                try await expect(api, "POST", "\(path)/resize", json: #"{"cpu":1}"#, 400, "grow")
                let stopping = try await api.send("POST", "\(path)/stop")
                #expect(stopping["state"] == "stopping")
                try await expect(api, "POST", "\(path)/stop", 200)
                try await expect(api, "POST", "\(path)/start", 409)
                try await runner.report(one.id, .stopped)
                try await expect(api, "POST", "\(path)/stop", 200)
                try await expect(api, "POST", "\(path)/resize", json: #"{"disk":1}"#, 400, "grow")
                try await expect(api, "POST", "\(path)/resize", json: #"{"disk":9,"cpu":1}"#, 200)
                try await runner.report(one.id, .stopped)
                let starting = try await api.send("POST", "\(path)/start")
                #expect(starting["state"] == "starting")
                try await runner.report(one.id, .error, error: "no such image", recoverable: true)
                let failed = try await api.send("GET", path)
                #expect(failed["state"] == "error")
                #expect(failed["errorReason"] == "no such image")
                #expect(failed["recoverable"] == .bool(true))
                try await expect(api, "POST", "\(path)/start", 400, "Recover")
                try await expect(api, "POST", "\(path)/stop", 400)
                try await expect(api, "POST", "\(path)/resize", json: #"{"disk":8}"#, 400, "grow")
                let healing = try await api.send("POST", "\(path)/resize", json: #"{"disk":10}"#)
                #expect(healing["state"] == "starting")
                #expect(healing["disk"] == 10)
                try await runner.report(one.id, .error, error: "never", recoverable: false)
                try await expect(api, "POST", "\(path)/resize", json: #"{"disk":11}"#, 400, "recoverable")
                try await runner.report(one.id, .error, error: "no such image", recoverable: true)
                let recovering = try await api.send("POST", "\(path)/recover")
                #expect(recovering["state"] == "starting", "no poll may still show error")
                let destroying = try await api.send("DELETE", path)
                #expect(destroying["state"] == "destroying")
                #expect(destroying["desiredState"] == "destroyed")
                try await expect(api, "DELETE", path, 200)
                try await expect(api, "POST", "\(path)/start", 409)
                try await expect(api, "POST", "\(path)/public/true", 409)
                try await runner.release(one.id)
                try await expect(api, "DELETE", path, 404)
            }
        }
    }

    @Test func anEphemeralSandboxIsDestroyedByStop() async throws {
        try await TestAPI.with { api in
            try await api.database.withRunner { runner in
                let one = try await api.database.makeSandbox(of: api.tenant) { $0.autoDeleteMinutes = 0 }
                try await runner.report(one.id, .started)
                #expect(try await api.send("POST", "/api/sandbox/\(one.id)/stop")["state"] == "destroying")
            }
        }
    }

    @Test func settersSet() async throws {
        try await TestAPI.with { api in
            let one = try await api.database.makeSandbox(of: api.tenant)
            let path = "/api/sandbox/\(one.id)"
            #expect(try await api.send("PUT", "\(path)/labels", json: #"{"labels":{"a":"b"}}"#)["labels"]["a"] == "b")
            #expect(try await api.send("POST", "\(path)/public/true")["public"] == .bool(true))
            #expect(try await api.send("POST", "\(path)/autostop/7")["autoStopInterval"] == 7)
            #expect(try await api.send("POST", "\(path)/autoarchive/0")["autoArchiveInterval"] == 43200)
            #expect(try await api.send("POST", "\(path)/autodelete/-3")["autoDeleteInterval"] == -1)
            #expect(try await api.send("POST", "\(path)/ttl/5")["autoDestroyAt"] != .null)
            #expect(try await api.send("POST", "\(path)/ttl/0")["autoDestroyAt"] == .null)
            #expect(try await api.send("POST", "\(path)/autopause/0").status == 200)
            #expect(try await api.send("POST", "\(path)/autopause/5").status == 422)
            #expect(try await api.send("POST", "\(path)/pause").status == 422)
            #expect(try await api.send("POST", "\(path)/last-activity").status == 201)
            #expect(try await api.send("GET", "\(path)/toolbox-proxy-url")["url"] == "http://proxy.test/toolbox")
            let key = try await api.send("GET", "\(path)/signing-key").json.text
            #expect(key.count == 64)
            #expect(try await api.send("POST", "\(path)/signing-key/rotate").json.text != key)
            for bad in [
                "public/yes", "terminal-recording/1", "autostop/-1", "autostop/x", "autostop/01", "autostop/+5",
                "autodelete/x", "ttl/-1",
            ] {
                #expect(try await api.send("POST", "\(path)/\(bad)").status == 400, "\(bad)")
            }
            for bad in ["{}", #"{"labels":[]}"#, #"{"labels":{"a":1}}"#, #"{"label":{}}"#] {
                #expect(try await api.send("PUT", "\(path)/labels", json: bad).status == 400, "\(bad)")
            }
        }
    }

    @Test func networkSettingsFollowTheContract() async throws {
        try await TestAPI.with { api in
            let one = try await api.database.makeSandbox(of: api.tenant)
            func set(_ json: String) async throws -> Answer {
                try await api.send("POST", "/api/sandbox/\(one.id)/network-settings", json: json)
            }
            let blocked = try await set(#"{"networkBlockAll":true}"#)
            #expect(blocked["networkBlockAll"] == .bool(true))
            let listed = try await set(#"{"networkAllowList":"10.0.0.0/8"}"#)
            #expect(listed["networkBlockAll"] == .bool(false))
            #expect(listed["networkAllowList"] == "10.0.0.0/8")
            let cleared = try await set(#"{"networkAllowList":""}"#)
            #expect(cleared["networkAllowList"] == .null)
            _ = try await set(#"{"networkAllowList":"10.0.0.0/8"}"#)
            let opened = try await set(#"{"networkBlockAll":false}"#)
            #expect(opened["networkAllowList"] == .null)
            #expect(try await set(#"{"networkAllowList":"x"}"#).status == 400)
            #expect(try await set(#"{"domainAllowList":"example.com"}"#).status == 501)
            #expect(try await set(#"{"networkBlockAll":true,"networkAllowList":"10.0.0.0/8"}"#).status == 400)
        }
    }

    @Test func recordingIsSetPerSandboxAndByTheOrganizationsDefault() async throws {
        try await TestAPI.with { api in
            let organization = "/api/organizations/\(api.tenant.organization)"
            func make(_ json: String) async throws -> JSONValue {
                try await api.send("POST", "/api/sandbox", json: json)["recordTerminals"]
            }
            #expect(try await make("{}") == .bool(false))
            #expect(try await make(#"{"recordTerminals":true}"#) == .bool(true))
            #expect(try await api.send("POST", "\(organization)/terminal-recording/maybe").status == 400)
            let changed = try await api.send("POST", "\(organization)/terminal-recording/true")
            #expect(changed.status == 200 && changed["recordTerminals"] == .bool(true))
            #expect(try await make("{}") == .bool(true))
            #expect(try await make(#"{"recordTerminals":false}"#) == .bool(false))
            let one = try await api.database.makeSandbox(of: api.tenant)
            for isOn in [true, false] {
                let answer = try await api.send("POST", "/api/sandbox/\(one.id)/terminal-recording/\(isOn)")
                #expect(answer.status == 200 && answer["recordTerminals"] == .bool(isOn))
            }
        }
    }

    /// The answer waits for the daemon to be told, so that the caller's next terminal is recorded.
    @Test func recordingIsAnsweredOnceTheDaemonKnows() async throws {
        try await TestAPI.with({ $0.limits.changeHold = .seconds(30) }) { api in
            try await api.database.withRunner { runner in
                let id = try await api.database.makeSandbox(of: api.tenant).id
                try await runner.report(id, .started)
                async let answer = api.send("POST", "/api/sandbox/\(id)/terminal-recording/true")
                try await poll {
                    let asked = try await api.database.owner.sandboxes.find(id, in: api.tenant.organization)
                    return asked?.recordsTerminals == true
                }
                try await api.database.owner.execute(
                    "UPDATE sandbox_status SET effective = effective || '{\"recordsTerminals\": true}'"
                )
                #expect(try await answer["recordTerminals"] == .bool(true))
            }
        }
    }

    /// It decides over what others do.
    @Test func theDefaultOfRecordingIsForAnOwnersWholeKey() async throws {
        try await TestAPI.with { api in
            let path = "/api/organizations/\(api.tenant.organization)/terminal-recording/true"
            let some = try await Bootstrap(api.database.owner).createAPIKey(
                organization: api.tenant.organization,
                user: api.tenant.user,
                name: "some",
                permissions: ["write:sandboxes"]
            )
            #expect(try await api.send("POST", path, key: .secret(some)).status == 403)
            let stranger = try await api.database.makeTenant("stranger")
            #expect(try await api.send("POST", path, key: .secret(stranger.key)).status == 404)
            try await api.database.owner.execute("UPDATE organization_member SET role = 'member'")
            #expect(try await api.send("POST", path).status == 403)
            try await api.database.owner.execute("UPDATE organization_member SET role = 'owner'")
            #expect(try await api.send("POST", path)["recordTerminals"] == .bool(true))
        }
    }

    @Test func ceilingsAndTakenNamesAreTold() async throws {
        try await TestAPI.with { api in
            #expect(try await api.send("POST", "/api/sandbox", json: #"{"name":"x"}"#).status == 200)
            let taken = try await api.send("POST", "/api/sandbox", json: #"{"name":"x"}"#)
            #expect(taken.status == 409)
            #expect(taken.message.contains("'x'"))
            try await api.database.owner.execute("UPDATE organization SET sandbox_limit = 1")
            let refused = try await api.send("POST", "/api/sandbox", json: "{}")
            #expect(refused.status == 403)
            #expect(refused.message.contains("ceiling of 1 sandboxes"))
            #expect(refused.message.contains("raise organization.sandbox_limit"))
        }
    }

    /// A start on a full runner is told with what to do, and nothing is written.
    @Test func aFullRunnerIsTold() async throws {
        try await TestAPI.with { api in
            try await api.database.withRunner(cpu: 1) { runner in
                let one = try await api.database.makeSandbox(of: api.tenant)
                try await runner.report(one.id, .started)
                _ = try await api.send("POST", "/api/sandbox/\(one.id)/stop")
                try await runner.report(one.id, .stopped)
                try await api.database.makeSandbox(of: api.tenant)
                try await expect(api, "POST", "/api/sandbox/\(one.id)/start", 409, "no room")
                #expect(try await api.send("GET", "/api/sandbox/\(one.id)")["state"] == "stopped")
            }
        }
    }

    private func expect(
        _ api: TestAPI,
        _ method: String,
        _ path: String,
        json: String = "{}",
        _ status: Int,
        _ words: String = "",
        at location: SourceLocation = #_sourceLocation
    ) async throws {
        let answer = try await api.send(method, path, json: json)
        #expect(answer.status == status, "\(path): \(answer.text)", sourceLocation: location)
        if !words.isEmpty { #expect(answer.message.contains(words), "\(answer.message)", sourceLocation: location) }
    }
}
