import AsyncHTTPClient
package import Docker
package import Domain
import FoundationEssentials
import NIOCore
import NIOHTTP1

/// Where a runner reaches Martlet's own registry, with the login that all runners share.
package struct RegistryAccess: Sendable, Hashable, CustomStringConvertible {
    /// `http` or `https`.
    package let scheme: String
    /// Host and port, as image names begin with it.
    package let host: String
    package let username: String
    private let password: String

    /// Reads `http://host:port` or `https://host`. Throws ``RunnerError`` (`.misconfigured`).
    package init(url: String, username: String, password: String) throws {
        let parts = url.split(separator: "://", maxSplits: 1)
        guard parts.count == 2, parts[0] == "http" || parts[0] == "https", let host = RegistryHost(parts[1]) else {
            throw RunnerError(
                .misconfigured,
                "the registry's URL '\(url)' must be http:// or https://, a host and perhaps a port, and nothing more"
            )
        }
        scheme = String(parts[0])
        self.host = host.text
        self.username = username
        self.password = password
    }

    /// For the engine.
    package var credentials: RegistryCredentials? {
        username.isEmpty ? nil : RegistryCredentials(username: username, password: password, serverAddress: host)
    }

    /// Value of the header `Authorization`; nil where the registry asks for no login.
    var authorization: String? {
        username.isEmpty ? nil : "Basic \(Data("\(username):\(password)".utf8).base64EncodedString())"
    }

    /// As this runner's engine knows the image.
    package func reference(of image: InternalImage) -> String { image.reference(at: host) }

    /// What rows call an image that the engine knows by digest; nil if it is of another registry.
    package func internalName(of reference: String) -> String? {
        guard reference.hasPrefix("\(host)/") else { return nil }
        return "\(InternalImage.host)\(reference.dropFirst(host.count))"
    }

    /// Where the image of a snapshot is pushed to, as the engine knows it.
    func repository(of snapshot: SnapshotID) -> String { "\(host)/\(InternalImage.repository(of: snapshot))" }

    /// Without the password.
    package var description: String { "\(scheme)://\(host)" }
}

/// The few requests that Martlet itself makes of its registry; images travel between it and the engine.
struct RegistryClient: Sendable {
    private static let callLimit: TimeAmount = .seconds(15)
    private static let bodyLimit = 4 << 20
    /// Manifests are named by the digest of the form they were pushed in.
    private static let manifestTypes = [
        "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json",
    ]

    /// The registry answered, but not as it should.
    struct Refused: Error, CustomStringConvertible { let description: String }

    let access: RegistryAccess

    /// The tags of a repository; none where it is not there.
    func tags(of repository: String) async throws -> [String] {
        struct Answer: Decodable { let tags: [String]? }
        guard let answer = try await send(.GET, "\(repository)/tags/list") else { return [] }
        let body = try await answer.body.collect(upTo: Self.bodyLimit)
        return try JSONDecoder().decode(Answer.self, from: Data(body.readableBytesView)).tags ?? []
    }

    /// The digest that a tag points to; nil where it points to nothing any more.
    func digest(of tag: String, in repository: String) async throws -> String? {
        try await send(.HEAD, "\(repository)/manifests/\(tag)")?.headers.first(name: "Docker-Content-Digest")
    }

    /// The manifest is gone afterwards; its layers go with the registry's own garbage collection.
    func delete(_ digest: String, in repository: String) async throws {
        _ = try await send(.DELETE, "\(repository)/manifests/\(digest)")
    }

    /// Nil for 404.
    private func send(_ method: HTTPMethod, _ path: String) async throws -> HTTPClientResponse? {
        var request = HTTPClientRequest(url: "\(access)/v2/\(path)")
        request.method = method
        if let authorization = access.authorization { request.headers.add(name: "Authorization", value: authorization) }
        for type in Self.manifestTypes { request.headers.add(name: "Accept", value: type) }
        let answer = try await HTTPClient.shared.execute(request, timeout: Self.callLimit)
        if answer.status == .notFound { return nil }
        guard (200..<300).contains(answer.status.code) else {
            throw Refused(description: "\(access) answered \(answer.status.code) to \(method) \(path)")
        }
        return answer
    }
}
