import AsyncHTTPClient
import FoundationEssentials
import NIOCore
import NIOHTTP1
import Postgres
import ServiceLifecycle
import Store
import TestSupport

@testable import API

/// A live API on a port of its own, over a database of its own, logged in as `martlet_api`.
struct TestAPI: Sendable {
    let database: TestDatabase
    let tenant: TestTenant
    let base: String
    let routes: [APIRoute]

    static func with(
        _ adjust: (inout APIConfiguration) -> Void = { _ in },
        _ body: @Sendable @escaping (TestAPI) async throws -> Void
    ) async throws {
        try await TestDatabase.with { database in
            let tenant = try await database.makeTenant()
            let login = try await database.configuration(for: .api)
            let pool = PostgresPool(login, limits: .init(connectionLimit: 8, minimumIdle: 0), logger: TestStack.logger)
            try await TestDatabase.withRunning(pool) {
                var configuration = APIConfiguration(port: 0, toolboxProxyURL: "http://proxy.test/toolbox")
                configuration.limits.createHold = .milliseconds(200)
                configuration.limits.changeHold = .milliseconds(200)
                adjust(&configuration)
                try await run(configuration, pool, login, database, tenant, body)
            }
        }
    }

    private static func run(
        _ configuration: APIConfiguration,
        _ pool: PostgresPool,
        _ login: PostgresConfiguration,
        _ database: TestDatabase,
        _ tenant: TestTenant,
        _ body: @Sendable @escaping (TestAPI) async throws -> Void
    ) async throws {
        let (ports, port) = AsyncStream<Int>.makeStream()
        let api = try buildAPI(
            configuration,
            APIDependencies(database: pool, databaseConfiguration: login, logger: TestStack.logger)
        ) { port.yield($0) }
        let group = ServiceGroup(
            configuration: .init(services: api.services.map { .init(service: $0) }, logger: TestStack.logger)
        )
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await group.run() }
            let number = await ports.first { _ in true }!
            try await poll { api.feed.isListening }
            let test = TestAPI(
                database: database,
                tenant: tenant,
                base: "http://127.0.0.1:\(number)",
                routes: api.routes
            )
            do {
                try await body(test)
                await group.triggerGracefulShutdown()
                try await tasks.waitForAll()
            } catch {
                await group.triggerGracefulShutdown()
                try? await tasks.waitForAll()
                throw error
            }
        }
    }

    /// Sends a request with the tenant's key, another one, or none.
    func send(
        _ method: String,
        _ path: String,
        key: Credential = .tenant,
        json: String? = nil,
        headers: [String: String] = [:]
    ) async throws -> Answer {
        var request = HTTPClientRequest(url: base + path)
        request.method = .init(rawValue: method)
        switch key {
        case .tenant: request.headers.add(name: "Authorization", value: "Bearer \(tenant.key.text)")
        case .secret(let secret): request.headers.add(name: "Authorization", value: "Bearer \(secret.text)")
        case .raw(let text): request.headers.add(name: "Authorization", value: text)
        case .none: break
        }
        for (name, value) in headers { request.headers.replaceOrAdd(name: name, value: value) }
        if let json {
            request.headers.replaceOrAdd(name: "Content-Type", value: "application/json")
            request.body = .bytes(Array(json.utf8))
        }
        let response = try await HTTPClient.shared.execute(request, timeout: .seconds(90))
        let body = try await response.body.collect(upTo: 16 << 20)
        return Answer(
            status: Int(response.status.code),
            bytes: Array(buffer: body),
            headers: response.headers.map { ($0, $1) }
        )
    }

    enum Credential: Sendable {
        case tenant, none
        case secret(APIKeySecret)
        case raw(String)
    }
}

/// What came back.
struct Answer: Sendable {
    let status: Int
    let bytes: [UInt8]
    let headers: [(String, String)]

    var text: String { String(decoding: bytes, as: UTF8.self) }
    var json: JSONValue { (try? JSONDecoder().decode(JSONValue.self, from: Data(bytes))) ?? .null }
    /// A field of the object that came back.
    subscript(field: String) -> JSONValue { json[field] }
    var message: String { if case .string(let text) = self["message"] { text } else { "" } }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral {
    package init(stringLiteral value: String) { self = .string(value) }
    package init(integerLiteral value: Int) { self = .integer(value) }

    subscript(field: String) -> JSONValue {
        if case .object(let object) = self { object[field] ?? .null } else { .null }
    }
    var items: [JSONValue] { if case .array(let items) = self { items } else { [] } }
    var text: String { if case .string(let text) = self { text } else { "" } }
}
