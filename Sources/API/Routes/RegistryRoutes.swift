import Domain
import FoundationEssentials
import Hummingbird
import NIOSSL
import Postgres
import Store

/// Registries that an organization pulls from with a login, or by a trust, of its own. Passwords come in and are sealed; they never
/// go out.
struct RegistryRoutes: Sendable {
    let database: any PostgresClient
    let secrets: SecretBox?

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/docker-registry", "list_registries", .key) { call in
                try .json(try await database.registries.list(of: try call.caller.organization).map(RegistryWire.init))
            },
            APIRoute(.post, "/docker-registry", "create_registry", .permission(.writeRegistries), create),
            APIRoute(.get, "/docker-registry/{id}", "get_registry", .key) { call in
                try .json(RegistryWire(try await find(call)))
            },
            APIRoute(.patch, "/docker-registry/{id}", "update_registry", .permission(.writeRegistries), update),
            APIRoute(.delete, "/docker-registry/{id}", "delete_registry", .permission(.deleteRegistries)) { call in
                let found = try await find(call)
                _ = try await database.registries.delete(found.id, of: try call.caller.organization)
                return .empty(.noContent)
            },
            APIRoute(.get, "/docker-registry/registry-push-access", "get_transient_push_access", .key) { _ in
                throw APIError.unsupported(
                    "Martlet's own registry gives nobody a login to push with. Push the image to a registry of yours, add that "
                        + "with POST /docker-registry, and create a snapshot from the image with POST /snapshots (imageName)"
                )
            },
        ]
    }

    private func find(_ call: Call) async throws -> RegistryRecord {
        let id = call.parameter("id")
        guard let known = RegistryID(id),
            let found = try await database.registries.find(known, of: try call.caller.organization)
        else { throw APIError.notFound("there is no registry with the id '\(id.shortened)'") }
        return found
    }

    private func create(_ call: Call) async throws -> Response {
        let organization = try call.caller.organization
        let wanted = try RegistryWishWire(try await call.object())
        if wanted.password == nil, !wanted.username.isEmpty {
            throw APIError.badRequest("password is missing: give the one of '\(wanted.username.shortened)'")
        }
        try await RegistryGate(database: database).admit(wanted.host, field: "url")
        let id = RegistryID.random()
        let wish = try sealed(wanted, for: id, trust: wanted.trust ?? .system)
        let made = try await namedOnce(wanted.name) {
            try await database.registries.insert(wish, id: id, of: organization)
        }
        guard let made else {
            throw APIError.forbidden(
                "the organization has \(RegistryQueries.countLimit) registries, the limit. Delete some first"
            )
        }
        return try .json(RegistryWire(made), status: .created)
    }

    private func update(_ call: Call) async throws -> Response {
        let old = try await find(call)
        let wanted = try RegistryWishWire(try await call.object(), instead: old)
        try await RegistryGate(database: database).admit(wanted.host, field: "url")
        let trust = wanted.trust ?? old.trust
        if wanted.password == nil, !wanted.username.isEmpty {
            try requirePasswordStays(old, wanted.host, trust)
        }
        let wish = try sealed(wanted, for: old.id, trust: trust)
        let organization = try call.caller.organization
        let changed = try await namedOnce(wanted.name) {
            try await database.registries.update(old.id, to: wish, of: organization)
        }
        guard let changed else {
            throw APIError.conflict("the registry was changed or deleted meanwhile. Read it again")
        }
        return try .json(RegistryWire(changed))
    }

    /// Or whoever may change a registry could have a password that he does not know sent to where he can read it.
    private func requirePasswordStays(_ old: RegistryRecord, _ host: RegistryHost, _ trust: RegistryTrust) throws {
        let change: String
        if old.username.isEmpty {
            change = "it had no login"
        } else if host.text != old.host {
            change = "url changes from \(old.host) to \(host.text)"
        } else if trust != old.trust {
            change = "caCertificate or insecure change"
        } else {
            return
        }
        throw APIError.badRequest(
            "\(change), so the password must be given again: it is sent to what it was given for and to nobody else"
        )
    }

    private func namedOnce(_ name: String, _ body: () async throws -> RegistryRecord?) async throws -> RegistryRecord? {
        do {
            return try await body()
        } catch let error as PostgresError where error.constraint == "registry_name_is_unique" {
            throw APIError.conflict("a registry with the name '\(name.shortened)' exists already. Choose another name")
        }
    }

    private func sealed(_ wanted: RegistryWishWire, for id: RegistryID, trust: RegistryTrust) throws -> RegistryWish {
        var password: SealedSecret?
        if let plain = wanted.password {
            guard let secrets else {
                throw APIError.unsupported(
                    "this Martlet has no key to keep passwords with: its operator sets MARTLET_SECRETS_KEY for api and runners"
                )
            }
            password = try secrets.seal(plain, for: RegistryRecord.place(of: id, host: wanted.host.text, trust: trust))
        }
        return RegistryWish(
            name: wanted.name,
            host: wanted.host,
            project: wanted.project,
            username: wanted.username,
            password: password,
            trust: trust
        )
    }
}

/// The body of `POST` and `PATCH`.
struct RegistryWishWire: Sendable {
    static let usernameByteLimit = 256
    static let passwordByteLimit = 4096
    static let projectByteLimit = 255

    var name: String
    var host: RegistryHost
    var project: String
    var username: String
    /// nil leaves the old one.
    var password: String?
    /// nil leaves the old one.
    var trust: RegistryTrust?

    /// Throws one 400 that names every bad field.
    ///
    /// - Parameter old: what it is to be instead of.
    init(_ body: [String: JSONValue], instead old: RegistryRecord? = nil) throws {
        let trusted = old?.trust ?? .system
        var fields = FieldReader(body)
        name = fields.string("name", limit: 4 * SandboxRules.nameLimit) ?? ""
        if let problem = SandboxRules.problem(ofName: name) { fields.complain(problem) }
        let host = Self.host(&fields)
        trust = Self.trust(&fields, trusted)
        let named = fields.string("username", limit: Self.usernameByteLimit)
        username = named ?? ""
        if named == nil, let old, !old.username.isEmpty {
            fields.complain("username is missing: give '\(old.username.shortened)' again, or \"\" to ask as nobody")
        }
        password = fields.string("password", limit: Self.passwordByteLimit).flatMap { $0.isEmpty ? nil : $0 }
        if let problem = Self.loginProblem(username, password, trust ?? trusted) { fields.complain(problem) }
        project = fields.string("project", limit: Self.projectByteLimit) ?? ""
        if !project.isEmpty, (try? ImageName(parsing: "registry.example/\(project)")) == nil || project.contains(":") {
            fields.complain("project is '\(project.shortened)', but must be a path as in image names, such as team/app")
        }
        try fields.finish()
        guard let host else {
            throw APIError.badRequest("url is missing: give the registry's host, such as registry.example.com:5000")
        }
        self.host = host
    }

    private static func loginProblem(_ username: String, _ password: String?, _ trust: RegistryTrust) -> String? {
        if username.contains(":") { return "username is '\(username.shortened)', but must be without a colon" }
        guard username.isEmpty else { return nil }
        if password != nil { return "username is missing, though there is a password" }
        return trust == .system
            ? "username is missing: without a login, caCertificate or insecure there is nothing to add a registry for"
            : nil
    }

    /// What is named last counts: an authority ends that it is insecure, and the other way round. Nil where neither is named.
    private static func trust(_ fields: inout FieldReader, _ old: RegistryTrust) -> RegistryTrust? {
        let insecure = fields.bool("insecure")
        let authorities = fields.string("caCertificate", limit: RegistryTrust.authoritiesByteLimit)
        switch (insecure, authorities) {
        case (true, let text?) where !text.isEmpty:
            fields.complain(
                "caCertificate and insecure are both given: an insecure registry needs no authority. Leave one out"
            )
            return nil
        case (true, _): return .anything
        case (_, let text?) where !text.isEmpty:
            if let problem = problem(ofAuthorities: text) { fields.complain("caCertificate \(problem)") }
            return .authorities(text)
        case (false, nil): return old == .anything ? .system : nil
        case (nil, _?): return old == .anything ? nil : .system
        case (false, _?): return .system
        case (nil, nil): return nil
        }
    }

    private static func problem(ofAuthorities text: String) -> String? {
        let advice = "give it as PEM, '-----BEGIN CERTIFICATE-----' and so on, one or several"
        do {
            return try NIOSSLCertificate.fromPEMBytes(Array(text.utf8)).isEmpty
                ? "holds no certificate: \(advice)" : nil
        } catch {
            return "is no certificate that can be read: \(advice)"
        }
    }

    /// A host, or a URL of nothing but a host: Docker Hub's has a path by custom.
    private static func host(_ fields: inout FieldReader) -> RegistryHost? {
        guard let text = fields.string("url") else { return nil }
        var rest = Substring(text.lowercased())
        for scheme in ["https://", "http://"] where rest.hasPrefix(scheme) { rest = rest.dropFirst(scheme.count) }
        for end in ["/v1/", "/v2/", "/"] where rest.hasSuffix(end) { rest = rest.dropLast(end.count) }
        guard let host = RegistryHost(rest) else {
            fields.complain(
                "url is '\(text.shortened)', but must be a host with an optional port; a path belongs into project"
            )
            return nil
        }
        return host
    }
}

/// `DockerRegistry`.
struct RegistryWire: Encodable {
    var id: String
    var name: String
    var url: String
    var username: String
    var project: String
    var registryType = "organization"
    /// Ours, as is ``insecure``: the SDK's model ignores both.
    var caCertificate: String?
    var insecure: Bool
    var createdAt: Date
    var updatedAt: Date

    init(_ record: RegistryRecord) {
        id = record.id.description
        name = record.name
        url = record.host
        username = record.username
        project = record.project
        if case .authorities(let text) = record.trust { caCertificate = text }
        insecure = record.trust == .anything
        createdAt = record.createdAt
        updatedAt = record.updatedAt
    }
}
