import HTTPTypes
import Store
import TestSupport
import Testing

@testable import API

@Suite struct InterfaceTests {
    @Test func listsPageByPage() async throws {
        try await TestAPI.with { api in
            for index in 0..<7 { try await api.database.makeSandbox(of: api.tenant, name: "box \(index)") }
            var (names, cursor): ([String], String) = ([], "")
            repeat {
                let page = try await api.send(
                    "GET",
                    "/api/sandbox?limit=3&sort=name&order=asc" + (cursor.isEmpty ? "" : "&cursor=\(cursor)")
                )
                #expect(page.status == 200, "\(page.text)")
                names += page["items"].items.map { $0["name"].text }
                cursor = page["nextCursor"].text
            } while !cursor.isEmpty
            #expect(names == (0..<7).map { "box \($0)" })
            let item = try await api.send("GET", "/api/sandbox?limit=1")["items"].items[0]
            #expect(item["env"] == .null, "lists do not carry the environment")
            #expect(item["toolboxProxyUrl"] != .null)
            let foreign = try await api.send("GET", "/api/sandbox?limit=3&sort=name&order=asc")["nextCursor"].text
            #expect(try await api.send("GET", "/api/sandbox?sort=cpu&cursor=\(foreign)").status == 400)
        }
    }

    @Test func unknownPathsMethodsAndOperationsAreTold() async throws {
        try await TestAPI.with { api in
            for path in [
                "/", "/api", "/api/", "/apix/sandbox", "/api/nothing", "/api/sandbox/", "/api/sandbox//start",
                "/sandbox",
            ] {
                let answer = try await api.send("GET", path)
                #expect(answer.status == 404, "\(path)")
                expectErrorShape(answer, path)
            }
            let wrongMethod = try await api.send("PATCH", "/api/sandbox")
            #expect(wrongMethod.status == 405)
            #expect(wrongMethod.message.contains("GET, POST"))
            let unsupported = try await api.send("GET", "/api/sandbox/x/region-quota")
            #expect(unsupported.status == 501)
            #expect(unsupported.message.contains("get_region_quota_by_sandbox_id"))
            expectErrorShape(unsupported, "/api/sandbox/x/region-quota")
            #expect(try await api.send("GET", "/api/sandbox/ssh-access/validate?token=x").status == 200)
            #expect(try await api.send("GET", "/api/sandbox/%00").status == 400)
        }
    }

    /// The asynchronous SDK declares JSON on every request, also where there is no body.
    @Test func emptyBodiesDeclaredAsJSONAreFine() async throws {
        try await TestAPI.with { api in
            let headers = [
                "Content-Type": "application/json", "X-Daytona-Source": "sdk-python-async", "X-Daytona-Future": "x",
            ]
            let made = try await api.send("POST", "/api/sandbox", headers: headers)
            #expect(made.status == 200, "\(made.text)")
            let path = "/api/sandbox/\(made["id"].text)"
            #expect(try await api.send("GET", path, headers: headers).status == 200)
            #expect(try await api.send("POST", "\(path)/last-activity", headers: headers).status == 201)
            #expect(try await api.send("DELETE", path, headers: headers).status == 200)
        }
    }

    @Test func readsWhatSurroundsSandboxes() async throws {
        try await TestAPI.with { api in
            let organization = "/api/organizations/\(api.tenant.organization)"
            let dto = try await api.send("GET", organization)
            #expect(dto["name"] == "acme")
            #expect(dto["suspendedAt"] != .null, "the client takes no null")
            try await api.database.makeSandbox(of: api.tenant)
            let usage = try await api.send("GET", "\(organization)/usage")
            #expect(usage["regionUsage"].items.first?["currentCpuUsage"] == 1)
            #expect(try await api.send("GET", "/api/users/me")["email"] == "acme@example.com")
            for path in ["/api/regions", "/api/shared-regions", "/api/organizations"] {
                #expect(try await api.send("GET", path).json.items.count == 1, "\(path)")
            }
            let snapshots = try await api.send("GET", "/api/snapshots?page=1&limit=10")
            #expect(snapshots["total"] == 1)
            #expect(snapshots["items"].items[0]["general"] == .bool(true))
            #expect(try await api.send("GET", "/api/snapshots/default")["mem"] == 1)
            #expect(try await api.send("GET", "/api/snapshots/org%2Fimg%3A1%20a").status == 404)
            let configuration = try await api.send("GET", "/api/config", key: .none)
            for field in [
                "version", "oidc", "announcements", "proxyToolboxUrl", "defaultSnapshot", "maintananceMode",
                "environment",
            ] {
                #expect(configuration[field] != .null, "\(field)")
            }
            #expect(configuration["analyticsApiUrl"] == .null)
        }
    }

    @Test func brokenEscapesAreRefused() throws {
        #expect(try "a%2Fb%20%C3%A9".percentDecoded() == "a/b é")
        for bad in ["%", "%4", "%ZZ", "a%", "%C3", "%00", "%c3%28"] {
            #expect(throws: APIError.self, "\(bad)") { try bad.percentDecoded() }
        }
        #expect(try Query("a=1&a=2+3&b&c=%3D%26")["c"] == "=&")
        #expect(try Query("a=1&a=2+3").all("a") == ["1", "2 3"])
    }

    @Test func patternsDoNotHideOneAnother() throws {
        func answer(_ name: String) -> APIRoute {
            APIRoute(.get, name, name, .open) { _ in .empty(.ok) }
        }
        let table = RouteTable(["/a/{x}", "/a/b", "/a/{x}/c", "/a/b/d"].map(answer))
        func operation(_ path: String) -> String? { try? table.resolve(.get, path: path).route.operation }
        #expect(operation("/api/a/b") == "/a/b")
        #expect(operation("/api/a/z") == "/a/{x}")
        #expect(operation("/api/a/b/c") == "/a/{x}/c")
        #expect(operation("/api/a/b/d") == "/a/b/d")
        #expect(operation("/api/a/b%2Fd") == "/a/{x}")
        #expect(operation("/api/a") == nil)
        #expect(operation("/api/a/") == nil)
    }
}
