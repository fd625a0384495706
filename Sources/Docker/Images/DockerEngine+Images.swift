import AsyncHTTPClient
import FoundationEssentials
package import NIOCore
import NIOFoundationEssentialsCompat
import NIOHTTP1
import Synchronization

extension DockerEngine {
    /// Reads an image by reference or id. An absent one throws `.notFound`.
    package func inspectImage(_ reference: String) async throws -> ImageInspection {
        let call = try EngineCall("inspect image \(reference)", .GET, ["images", reference, "json"])
        return try await value(ImageInspection.self, call, within: limits.call)
    }

    /// Lists images bearing all `labels`, and matching the pattern `reference` (`martlet/*:*`) if given; with those that only
    /// others are made upon, if `isWithSteps`.
    package func listImages(labels: [String: String?] = [:], reference: String? = nil, isWithSteps: Bool = false)
        async throws -> [ImageSummary]
    {
        let filters = labelFilters(labels, adding: reference.map { ["reference": [$0]] } ?? [:])
        let call = try EngineCall(
            "list images",
            .GET,
            ["images", "json"],
            query: [("filters", try filters.encodedText()), ("all", String(isWithSteps))]
        )
        return try await value([ImageSummary].self, call, within: limits.call)
    }

    /// Makes an image of one layer from a tar of a file system; `changes` are Dockerfile instructions. Returns its id.
    package func importImage(tar: ByteBuffer, repository: String, tag: String, changes: [String] = []) async throws
        -> String
    {
        try await importImage(
            body: .bytes(tar),
            repository: repository,
            tag: tag,
            changes: changes,
            within: limits.transfer
        )
    }

    /// As above, from a stream that is never held in memory.
    package func importImage<Chunks: AsyncSequence & Sendable>(
        tar: Chunks,
        repository: String,
        tag: String,
        changes: [String] = [],
        within limit: Duration? = nil
    ) async throws -> String where Chunks.Element == ByteBuffer {
        let body = HTTPClientRequest.Body.stream(tar, length: .unknown)
        return try await importImage(
            body: body,
            repository: repository,
            tag: tag,
            changes: changes,
            within: limit ?? limits.transfer
        )
    }

    private func importImage(
        body: HTTPClientRequest.Body,
        repository: String,
        tag: String,
        changes: [String],
        within limit: Duration
    ) async throws -> String {
        let call = try EngineCall(
            "import image \(repository):\(tag)",
            .POST,
            ["images", "create"],
            query: [("fromSrc", "-"), ("repo", repository), ("tag", tag)] + changes.map { ("changes", $0) },
            body: .tar(body)
        )
        let id = Mutex("")
        try await forEachLine(call, within: limit) { line in
            let message = try ProgressMessage.read(line, call)
            if let status = message.status { id.withLock { $0 = status } }
        }
        return id.withLock { $0 }
    }

    /// Asks the registry that the name says, whatever this engine has, which manifest the name has there: `sha256:…`.
    ///
    /// Throws `.notFound` for an unknown image, `.unauthorized` where the registry wants other credentials.
    package func distributionDigest(_ reference: String, credentials: RegistryCredentials? = nil) async throws -> String
    {
        let call = try EngineCall(
            "ask the registry for \(reference)",
            .GET,
            ["distribution", reference, "json"],
            headers: try Self.authorization(credentials)
        )
        return try await askingRegistry {
            try await value(DistributionInspection.self, call, within: limits.lifecycle).descriptor.digest
        }
    }

    private static func authorization(_ credentials: RegistryCredentials?) throws -> [(String, String)] {
        try credentials.map { [("X-Registry-Auth", try $0.header())] } ?? []
    }

    /// What a registry said is judged as its word, not as the engine's.
    private func askingRegistry<Value>(_ body: () async throws -> Value) async throws -> Value {
        do {
            return try await body()
        } catch let error as DockerError {
            throw error.judgedAsRegistrys()
        }
    }

    /// Pulls an image; `limit` covers all of it. A pull that was cut off is resumed by pulling again.
    ///
    /// Throws `.notFound` for an unknown image, `.unauthorized` where the registry wants other credentials. Not a proof that
    /// the registry grants it: the engine keeps manifests that it once saw, and asks nobody for them when they are pulled by digest.
    package func pullImage(
        _ reference: String,
        credentials: RegistryCredentials? = nil,
        platform: String? = nil,
        within limit: Duration? = nil,
        progress: @escaping @Sendable (PullProgress) async throws -> Void = { _ in }
    ) async throws {
        var query = [("fromImage", reference)]
        // Without a tag the engine would pull all tags.
        if !ImageReference.namesOneImage(reference) { query.append(("tag", "latest")) }
        if let platform { query.append(("platform", platform)) }
        let call = try EngineCall(
            "pull image \(reference)",
            .POST,
            ["images", "create"],
            query: query,
            headers: try Self.authorization(credentials)
        )
        try await askingRegistry {
            try await forEachLine(call, within: limit ?? limits.transfer) { line in
                try await progress(PullProgress(try ProgressMessage.read(line, call)))
            }
        }
    }

    /// Pushes `repository:tag` to the registry that the name begins with; `limit` covers all of it. Layers that the registry has
    /// are not sent again. Returns the manifest's digest there, `sha256:…`.
    package func pushImage(
        repository: String,
        tag: String,
        credentials: RegistryCredentials?,
        within limit: Duration? = nil,
        progress: @escaping @Sendable (PullProgress) async throws -> Void = { _ in }
    ) async throws -> String {
        let call = try EngineCall(
            "push image \(repository):\(tag)",
            .POST,
            ["images", repository, "push"],
            query: [("tag", tag)],
            // The engine wants the header also where there is nothing to say.
            headers: [("X-Registry-Auth", try credentials?.header() ?? "e30=")]
        )
        let digest = Mutex("")
        try await askingRegistry {
            try await forEachLine(call, within: limit ?? limits.transfer) { line in
                let message = try ProgressMessage.read(line, call)
                if let pushed = message.pushed?.digest { digest.withLock { $0 = pushed } }
                try await progress(PullProgress(message))
            }
        }
        let pushed = digest.withLock { $0 }
        guard !pushed.isEmpty else {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "the engine named no digest of what it pushed"
            )
        }
        return pushed
    }

    /// Gives an image another name.
    package func tagImage(_ reference: String, repository: String, tag: String) async throws {
        let call = try EngineCall(
            "tag image \(reference) as \(repository):\(tag)",
            .POST,
            ["images", reference, "tag"],
            query: [("repo", repository), ("tag", tag)]
        )
        try await send(call, within: limits.call)
    }

    /// Removes a name of an image, and its layers with the last one. An absent image throws `.notFound`, a used one `.conflict`.
    package func removeImage(_ reference: String, force: Bool = false) async throws {
        let call = try EngineCall(
            "remove image \(reference)",
            .DELETE,
            ["images", reference],
            query: [("force", String(force))]
        )
        try await send(call, within: limits.lifecycle)
    }
}

/// Questions about the notation `registry:port/name:tag@digest`.
enum ImageReference {
    /// Whether a tag or digest is given. A colon before the last slash belongs to the registry's port.
    static func namesOneImage(_ reference: String) -> Bool {
        let last = reference.split(separator: "/", omittingEmptySubsequences: false).last ?? ""
        return last.contains(":") || reference.contains("@")
    }
}

/// Credentials for one registry.
package struct RegistryCredentials: Sendable, Hashable {
    package let username: String
    package let password: String
    /// Host and port, as in the reference.
    package let serverAddress: String

    package init(username: String, password: String, serverAddress: String) {
        self.username = username
        self.password = password
        self.serverAddress = serverAddress
    }

    /// Base64 of JSON, URL-safe.
    func header() throws -> String {
        let document = JSONValue.strings(["username": username, "password": password, "serveraddress": serverAddress])
        return try document.encoded().base64EncodedString()
            .replacing("+", with: "-")
            .replacing("/", with: "_")
    }
}

/// How far a pull is.
package struct PullProgress: Sendable, Hashable {
    /// For people: `Downloading`, `Pull complete`.
    package let status: String
    /// The layer it is about, if any.
    package let layerID: String?
    package let currentBytes: Int64?
    package let totalBytes: Int64?
}

extension PullProgress {
    init(_ message: ProgressMessage) {
        self.init(
            status: message.status ?? "",
            layerID: message.id,
            currentBytes: message.detail?.current,
            totalBytes: message.detail?.total
        )
    }
}

/// One line of a streamed answer. The engine reports trouble inside such lines, after status 200.
struct ProgressMessage: Decodable {
    struct Detail: Decodable {
        let current: Int64?
        let total: Int64?
    }

    /// The end of a push; at the end of a build it holds other things.
    struct Pushed: Decodable {
        let digest: String?
        enum CodingKeys: String, CodingKey { case digest = "Digest" }
    }

    let status: String?
    let id: String?
    let detail: Detail?
    let error: String?
    let pushed: Pushed?

    enum CodingKeys: String, CodingKey {
        case status, id, error
        case detail = "progressDetail"
        case pushed = "aux"
    }

    static func read(_ line: ByteBuffer, _ call: EngineCall) throws -> ProgressMessage {
        let message: ProgressMessage
        do {
            message = try JSONDecoder().decode(ProgressMessage.self, from: Data(buffer: line))
        } catch {
            throw DockerError(
                operation: call.operation,
                kind: .server,
                message: "a progress line is not understood: \(error)"
            )
        }
        if let error = message.error {
            throw DockerError.answered(operation: call.operation, status: 500, message: error)
        }
        return message
    }
}
