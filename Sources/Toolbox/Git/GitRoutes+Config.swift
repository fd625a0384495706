import HTTPTypes
import Hummingbird
import NIOCore

/// Settings and stored credentials: `/git/config`, `config/user` and `credentials`.
extension GitRoutes {
    private enum ConfigScope: String, CaseIterable {
        case global, local, system

        var option: StaticString {
            switch self {
            case .global: "--global"
            case .local: "--local"
            case .system: "--system"
            }
        }
    }

    private struct ConfigAnswer: Encodable {
        var value: String?

        enum CodingKeys: CodingKey { case value }

        /// Null is said, not left out.
        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(value, forKey: .value)
        }
    }

    /// `GET /git/config?key=&scope=&path=`: null if it is not set; the last one of several.
    func config(_ call: ToolboxCall) async throws -> Response {
        let key = try ConfigKey(try call.query.required("key"))
        let scope = try configScope(call.query["scope"])
        let session = try await configSession(call, scope, call.query["path"])
        var command = GitCommand("config", scope.option, "--includes", "--null", "--get")
        command.addOperands(key)
        let result = try await session.run(command)
        guard result.exitCode <= 1 else { throw gitFailure(command.title, result) }
        let value = result.output.readableBytesView.split(separator: 0, omittingEmptySubsequences: false).first
        let isSet = result.exitCode == 0
        return try jsonResponse(ConfigAnswer(value: isSet ? value.map { String(decoding: $0, as: UTF8.self) } : nil))
    }

    private struct ConfigBody: Decodable {
        var key: String
        var value: String
        var scope: String?
        var path: String?
    }

    /// `POST /git/config`: replaces all values of the key.
    func setConfig(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(ConfigBody.self)
        let key = try ConfigKey(body.key)
        let value = try ConfigValue(body.value)
        let scope = try configScope(body.scope)
        try await configSession(call, scope, body.path).check(setting(key, value, scope))
        return emptyResponse(.ok)
    }

    private struct UserBody: Decodable {
        var name: String
        var email: String
        var scope: String?
        var path: String?
    }

    /// `POST /git/config/user`
    func configureUser(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(UserBody.self)
        let identity = try GitIdentity(name: body.name, email: body.email, nameField: "name")
        let scope = try configScope(body.scope)
        let session = try await configSession(call, scope, body.path)
        try await session.check(setting(try ConfigKey("user.name"), try ConfigValue(identity.name), scope))
        try await session.check(setting(try ConfigKey("user.email"), try ConfigValue(identity.email), scope))
        return emptyResponse(.ok)
    }

    private func setting(_ key: ConfigKey, _ value: ConfigValue, _ scope: ConfigScope) -> GitCommand {
        var command = GitCommand("config", scope.option, "--replace-all")
        command.addOperands(key, value)
        return command
    }

    private func configScope(_ text: String?) throws -> ConfigScope {
        guard let text, !text.isEmpty else { return .global }
        if let scope = ConfigScope(rawValue: text) { return scope }
        let known = ConfigScope.allCases.map(\.rawValue).joined(separator: ", ")
        throw ToolboxError.badRequest("field 'scope' is '\(text)', not one of \(known)")
    }

    private func configSession(_ call: ToolboxCall, _ scope: ConfigScope, _ path: String?) async throws -> GitSession {
        switch scope {
        case .global, .system: return try await anywhere(call)
        case .local:
            guard let path, !path.isEmpty else {
                throw ToolboxError.badRequest("field 'path' is missing; scope 'local' needs the repository's")
            }
            return try await repository(path, call)
        }
    }

    private struct CredentialsBody: Decodable {
        var username: String
        var password: String
        var host: String?
        var `protocol`: String?
    }

    /// `POST /git/credentials`: in plain text in the sandbox, for all later calls and commands, which is what it is for.
    func storeCredentials(_ call: ToolboxCall) async throws -> Response {
        let body = try await call.decode(CredentialsBody.self)
        guard !body.username.isEmpty, !body.password.isEmpty else {
            throw ToolboxError.badRequest("fields 'username' and 'password' must not be empty")
        }
        let credentials = try GitCredentials(username: body.username, password: body.password)
        let host = body.host.flatMap { $0.isEmpty ? nil : $0 } ?? "github.com"
        let scheme = body.protocol.flatMap { $0.isEmpty ? nil : $0 } ?? "https"
        guard scheme == "https" || scheme == "http" else {
            throw ToolboxError.badRequest("field 'protocol' is '\(scheme)', not https or http")
        }
        guard isHost(host) else {
            throw ToolboxError.badRequest(
                "field 'host' is '\(host.prefix(100))', not a host like 'github.com' or 'host:8443'"
            )
        }
        let session = try await anywhere(call)
        try await session.enableStore()
        try await session.store(credentials, scheme: scheme, host: host)
        return emptyResponse(.ok)
    }
}

extension GitSession {
    /// Adds git's store to the user's credential helpers, unless it is among them.
    fileprivate func enableStore() async throws {
        let key = try ConfigKey("credential.helper")
        var query = GitCommand("config", "--global", "--includes", "--null", "--get-all")
        query.addOperands(key)
        let known = try await run(query)
        guard known.exitCode <= 1 else { throw gitFailure(query.title, known) }
        let helpers = known.output.readableBytesView.split(separator: 0)
        if helpers.contains(where: { $0.elementsEqual("store".utf8) || $0.starts(with: "store ".utf8) }) { return }
        var addition = GitCommand("config", "--global", "--add")
        addition.addOperands(key, try ConfigValue("store"))
        try await check(addition)
    }

    fileprivate func store(_ credentials: GitCredentials, scheme: String, host: String) async throws {
        var command = GitCommand("credential", "approve")
        command.input.writeString("protocol=\(scheme)\nhost=\(host)\n")
        command.input.writeString("username=\(credentials.username)\npassword=\(credentials.password)\n\n")
        let result = try await run(command)
        // A helper that fails does not make git fail.
        guard result.exitCode == 0, result.errors.isEmpty else { throw gitFailure(command.title, result) }
    }
}
