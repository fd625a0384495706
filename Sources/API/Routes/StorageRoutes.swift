import Crypto
import Domain
import FoundationEssentials
import HTTPTypes
import Hummingbird
import Limiting
import NIOCore
import Postgres
import Store

/// Where clients put the files that images are built from: as much of S3 as the SDK speaks for that, into Postgres.
///
///     HEAD …/context.tar                      is it here?
///     POST …/context.tar?uploads              begin
///     PUT  …/context.tar?partNumber&uploadId  one part, at most `partByteLimit`; 5 MiB from the SDK
///     POST …/context.tar?uploadId             whole
///     DELETE …/context.tar?uploadId           never mind
///
/// The five are open, as the key's own credentials are not sent: each request is signed with short-lived ones.
struct StorageRoutes: Sendable {
    static let bucket = "martlet-contexts"
    static let region = "us-east-1"
    /// Clients want one; what is named by its content was never modified.
    private static let lastModified = "Thu, 01 Jan 1970 00:00:00 GMT"
    private static let object = "/storage/{bucket}/{organization}/{hash}/context.tar"

    let database: any PostgresClient
    /// Nil where there is no endpoint that clients would accept.
    let storageURL: String?
    let limits: APILimits
    let slots: UploadSlots
    /// Requests that are not signed as they must be, with those that have no valid key.
    let failures: FailedAttempts

    init(database: any PostgresClient, failures: FailedAttempts, configuration: APIConfiguration) {
        self.database = database
        self.failures = failures
        storageURL = configuration.storageURL
        limits = configuration.limits
        slots = UploadSlots(limit: limits.partsAtOnceLimit, organizationLimit: limits.organizationPartsAtOnceLimit)
    }

    var routes: [APIRoute] {
        [
            APIRoute(.get, "/object-storage/push-access", "get_push_access", .key, pushAccess),
            APIRoute(.head, Self.object, "storage_head", .open, head),
            APIRoute(.post, Self.object, "storage_upload", .open) { call in
                call.query["uploads"] != nil ? try await begin(call) : try await complete(call)
            },
            APIRoute(.put, Self.object, "storage_part", .open, put),
            APIRoute(.delete, Self.object, "storage_abort", .open, abort),
        ]
    }

    // MARK: - Credentials

    private func pushAccess(_ call: Call) async throws -> Response {
        let caller = try call.caller
        guard let storageURL else {
            throw APIError.unsupported(
                "files cannot be uploaded here: the API has no https endpoint. An operator gives one with MARTLET_STORAGE_URL"
            )
        }
        if !caller.permissions.mayUpload { try caller.require(.writeSnapshots) }
        guard let root = try await database.apiKeys.root(of: caller.key.id) else {
            throw APIError(.unauthorized, "the API key is not valid: it is unknown, revoked or expired")
        }
        let end = Date(timeIntervalSinceNow: Double(StorageCredentials.lifetime.components.seconds))
        return try .json(
            StorageAccessWire(
                StorageCredentials(key: caller.key.id, keyHash: root.hash, until: end),
                storageURL: storageURL,
                organization: caller.organization
            )
        )
    }

    /// What a request is about, once it is known to be signed by whoever may.
    private struct Target {
        let organization: OrganizationID
        let hash: String
        let payloadHash: String
    }

    /// Throws 403, or 429 where an address fails too often.
    private func admit(_ call: Call) async throws -> Target {
        let (signature, organization) = try await signer(of: call)
        guard call.parameter("bucket") == Self.bucket, call.parameter("organization") == "\(organization)" else {
            throw APIError.forbidden("these credentials are good for \(Self.bucket)/\(organization)/ only")
        }
        let hash = call.parameter("hash")
        guard hash.wholeMatch(of: /[0-9a-f]{32}/) != nil else {
            throw APIError.badRequest("'\(hash.shortened)' is no MD5 in 32 lower-case hexadecimal digits")
        }
        return Target(organization: organization, hash: hash, payloadHash: signature.payloadHash)
    }

    private func signer(of call: Call) async throws -> (RequestSignature, OrganizationID) {
        let request = call.request
        let signature: RequestSignature
        do {
            signature = try RequestSignature(
                method: request.method.rawValue,
                path: request.head.path ?? "",
                authority: request.head.authority ?? "",
                headers: request.headers,
                region: Self.region
            )
        } catch let error as APIError {
            throw failures.refusal(error, from: call.address)
        }
        let now = Date()
        guard let key = APIKeyID(signature.accessKey), let root = try await database.apiKeys.root(of: key),
            let secret = StorageCredentials.secret(of: signature.sessionToken, keyHash: root.hash, now: now),
            signature.isValid(secret: secret, now: now),
            // Asked again here: who has the key can derive its credentials himself.
            PermissionSet(root.permissions).mayUpload
        else {
            let error = RequestSignature.refusal(
                "the credentials are unknown, over or revoked, or the clock is off. GET /object-storage/push-access gives new ones"
            )
            throw failures.refusal(error, from: call.address)
        }
        return (signature, root.organization)
    }

    /// The body, once it is known to be what was signed.
    private func body(_ call: Call, _ target: Target, upTo limit: Int) async throws -> [UInt8] {
        let bytes = try await call.body(upTo: limit, within: limits.partDeadline)
        guard SHA256.hash(data: bytes).hexadecimal == target.payloadHash else {
            throw APIError.badRequest("the body is not what x-amz-content-sha256 says. Send it again")
        }
        return bytes
    }

    // MARK: - The five requests

    private func head(_ call: Call) async throws -> Response {
        let target = try await admit(call)
        guard let size = try await database.contexts.size(of: target.hash, in: target.organization) else {
            throw APIError.notFound("there is no such object")
        }
        return Response(
            status: .ok,
            headers: [.eTag: "\"\(target.hash)\"", .contentLength: "\(size)", .lastModified: Self.lastModified]
        )
    }

    private func begin(_ call: Call) async throws -> Response {
        let target = try await admit(call)
        _ = try await body(call, target, upTo: 0)
        let upload = try await database.contexts.begin(
            target.hash,
            in: target.organization,
            uploadsLimit: limits.uploadsLimit
        )
        guard let upload else {
            throw APIError(
                .tooManyRequests,
                "\(limits.uploadsLimit) uploads are under way, the limit of an organization; unfinished ones end after an hour"
            )
        }
        return xml(
            "<InitiateMultipartUploadResult>\(name(target))<UploadId>\(upload)</UploadId></InitiateMultipartUploadResult>"
        )
    }

    private func put(_ call: Call) async throws -> Response {
        let target = try await admit(call)
        guard let number = call.query["partNumber"].flatMap(Int.init), (1...10_000).contains(number) else {
            throw APIError.badRequest("partNumber must be from 1 to 10000; files are uploaded in parts here")
        }
        let upload = try uploadID(call)
        let digest = try await slots.within(target.organization) {
            let bytes = try await body(call, target, upTo: limits.partByteLimit)
            let isKept = try await database.contexts.put(
                ContextPart(number: number, digest: target.payloadHash),
                bytes,
                to: upload,
                in: target.organization,
                limits: limits.contexts
            )
            guard isKept else { throw Self.noSuchUpload(upload) }
            return target.payloadHash
        }
        return Response(status: .ok, headers: [.eTag: "\"\(digest)\""])
    }

    private func complete(_ call: Call) async throws -> Response {
        let target = try await admit(call)
        let upload = try uploadID(call)
        let text = String(decoding: try await body(call, target, upTo: limits.bodyByteLimit), as: UTF8.self)
        let parts = try await database.contexts.parts(of: upload, hash: target.hash, in: target.organization)
        guard !parts.isEmpty else { throw Self.noSuchUpload(upload) }
        guard CompletionList.parts(text) == parts, parts.map(\.number) == Array(1...parts.count) else {
            throw APIError.badRequest(
                "the parts that came are not those that the list names, numbered from 1 without gaps"
            )
        }
        do {
            try await database.contexts.complete(upload, in: target.organization)
        } catch let error as PostgresError where error.constraint == "build_context_is_unique" {
            // Two uploaded the same at once, and the other was first: what is complete is never replaced.
            try await database.contexts.abort(upload, in: target.organization)
        }
        return xml(
            "<CompleteMultipartUploadResult>\(name(target))<ETag>\"\(target.hash)\"</ETag></CompleteMultipartUploadResult>"
        )
    }

    private func abort(_ call: Call) async throws -> Response {
        let target = try await admit(call)
        try await database.contexts.abort(try uploadID(call), in: target.organization)
        return .empty(.noContent)
    }

    private func uploadID(_ call: Call) throws -> ContextID {
        let text = call.query["uploadId"] ?? ""
        guard let id = ContextID(text) else { throw Self.noSuchUpload(text.shortened) }
        return id
    }

    private static func noSuchUpload(_ id: some CustomStringConvertible) -> APIError {
        .notFound("there is no upload '\(id)' under way for this object. Begin one with POST ?uploads")
    }

    private func name(_ target: Target) -> String {
        "<Bucket>\(Self.bucket)</Bucket><Key>\(target.organization)/\(target.hash)/context.tar</Key>"
    }

    private func xml(_ body: String) -> Response {
        Response(
            status: .ok,
            headers: [.contentType: "application/xml"],
            body: .init(byteBuffer: ByteBuffer(string: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\(body)"))
        )
    }
}

extension PermissionSet {
    /// Of files that images are built from.
    fileprivate var mayUpload: Bool { contains(.writeSandboxes) || contains(.writeSnapshots) }
}

/// The body that ends an upload: `<CompleteMultipartUpload><Part><ETag>…</ETag><PartNumber>…</PartNumber></Part>…`.
enum CompletionList {
    /// The parts it names, in its order.
    static func parts(_ text: String) -> [ContextPart] {
        text.matches(of: /<Part>(.*?)<\/Part>/.dotMatchesNewlines()).compactMap { match in
            guard
                let number = match.1.firstMatch(of: /<PartNumber>\s*(\d{1,5})\s*<\/PartNumber>/).flatMap({ Int($0.1) }),
                let digest = match.1.firstMatch(of: /<ETag>\s*(?:"|&quot;)?([0-9a-f]{64})(?:"|&quot;)?\s*<\/ETag>/)
            else { return nil }
            return ContextPart(number: number, digest: String(digest.1))
        }
    }
}

/// `StorageAccessDto`.
struct StorageAccessWire: Encodable {
    var accessKey: String
    var secret: String
    var sessionToken: String
    var storageUrl: String
    var organizationId: String
    var bucket = StorageRoutes.bucket
    var region = StorageRoutes.region

    init(_ credentials: StorageCredentials, storageURL: String, organization: OrganizationID) {
        accessKey = "\(credentials.accessKey)"
        secret = credentials.secret
        sessionToken = credentials.sessionToken
        storageUrl = storageURL
        organizationId = "\(organization)"
    }
}
