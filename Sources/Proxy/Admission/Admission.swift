import Crypto
import Domain
import FoundationEssentials
import NIOCore
import Store

/// Who asks, taken from the request before anything is looked up.
enum Credential {
    case key(KeyHash)
    case signature(SignedFileURL, method: String)
}

/// The single place where toolbox requests are authorised.
struct Admission: Sendable {
    enum Decision {
        case admitted(Destination)
        case refused(ProxyRefusal)
        case undecided(EventLoopFuture<Destination>)
    }

    let table: RouteTable

    /// The credential of `head`. Throws 401 where there is none that is well formed.
    func credential(of head: RequestHead, _ path: ToolboxPath) throws(ProxyRefusal) -> Credential {
        if let field = head.fields.authorization {
            let hash = head.bytes.withUnsafeReadableBytes { Self.keyHash($0, field) }
            guard let hash else {
                throw .unauthorized(
                    "Authorization must be 'Bearer <api key>', and an API key looks like mrt_…; use another"
                )
            }
            return .key(hash)
        }
        guard let signed = Self.signedURL(head, path) else {
            throw .unauthorized("no credential; send 'Authorization: Bearer <api key>'")
        }
        return .signature(signed, method: head.isGET ? "GET" : "POST")
    }

    /// Decides from what is cached, or else after asking. The future fails with a ``ProxyRefusal``.
    func decide(_ credential: Credential, on sandbox: SandboxID, loop: any EventLoop) -> Decision {
        let now = NIODeadline.now()
        switch credential {
        case .key(let hash):
            if let known = table.grants.cached(hash, now: now),
                let destination = table.destinations.cached(sandbox, now: now)
            {
                return Self.decision { () throws(ProxyRefusal) in try Self.check(known?.grant(of: hash), destination) }
            }
        case .signature(let signed, let method):
            if let destination = table.destinations.cached(sandbox, now: now) {
                return Self.decision { () throws(ProxyRefusal) in try Self.check(signed, method, destination) }
            }
        }
        return .undecided(ask(credential, on: sandbox, loop: loop))
    }

    /// Asks the caches again, after the destination was found to be out of date.
    func ask(_ credential: Credential, on sandbox: SandboxID, loop: any EventLoop) -> EventLoopFuture<Destination> {
        let table = table
        switch credential {
        case .key(let hash):
            return grant(hash, loop).flatMap { grant in
                guard let grant else { return loop.makeFailedFuture(Self.unknownKey) }
                return Self.destination(sandbox, table, loop).flatMapThrowing { try Self.check(grant, $0) }
            }
        case .signature(let signed, let method):
            return Self.destination(sandbox, table, loop).flatMapThrowing { try Self.check(signed, method, $0) }
        }
    }

    private func grant(_ hash: KeyHash, _ loop: any EventLoop) -> EventLoopFuture<KeyGrant?> {
        guard let known = table.grants.cached(hash, now: .now()) else {
            return table.grants.value(for: hash, on: loop).map { $0?.grant(of: hash) }
        }
        return loop.makeSucceededFuture(known?.grant(of: hash))
    }

    private static func destination(
        _ sandbox: SandboxID,
        _ table: RouteTable,
        _ loop: any EventLoop
    ) -> EventLoopFuture<Destination?> {
        guard let known = table.destinations.cached(sandbox, now: .now()) else {
            return table.destinations.value(for: sandbox, on: loop)
        }
        return loop.makeSucceededFuture(known)
    }

    private static let unknownKey = ProxyRefusal.unauthorized("the API key is unknown, expired or revoked; use another")

    private static func decision(_ body: () throws(ProxyRefusal) -> Destination) -> Decision {
        do {
            return .admitted(try body())
        } catch {
            return .refused(error)
        }
    }

    private static func check(_ grant: KeyGrant?, _ destination: Destination?) throws(ProxyRefusal) -> Destination {
        guard let grant, grant.expiresAt.map({ $0 > Date() }) ?? true else { throw unknownKey }
        guard let destination, destination.route.organization == grant.organization else {
            throw ProxyRefusal.noSuchSandbox
        }
        return try started(destination)
    }

    /// An unknown sandbox and a wrong signature look alike from outside.
    private static func check(
        _ signed: SignedFileURL,
        _ method: String,
        _ destination: Destination?
    ) throws(ProxyRefusal) -> Destination {
        let now = Int64(Date().timeIntervalSince1970)
        guard let destination, signed.isValid(method: method, key: destination.signingKey, now: now) else {
            throw .unauthorized("the signature is wrong, expired or was revoked; sign the URL again")
        }
        return try started(destination)
    }

    private static func started(_ destination: Destination) throws(ProxyRefusal) -> Destination {
        guard !destination.isStarted else { return destination }
        let state = destination.route.state
        let advice =
            switch state {
            case "stopped", "archived": "start it first"
            case "error": "read its error reason, then start or delete it"
            case "unknown": "its runner is unreachable; wait until it is back or the sandbox is recovered"
            default: "wait until it is started"
            }
        throw ProxyRefusal(409, "CONFLICT", "sandbox \(destination.route.sandbox) is \(state), not started; \(advice)")
    }

    private static func keyHash(_ bytes: UnsafeRawBufferPointer, _ field: Range<Int>) -> KeyHash? {
        guard Syntax.hasPrefix(bytes, field, "bearer ") else { return nil }
        let key = UnsafeRawBufferPointer(
            rebasing: bytes[Syntax.trimmed(bytes, (field.lowerBound + 7)..<field.upperBound)]
        )
        // What cannot be a key costs no hash and no question to the database.
        guard APIKeySecret.isWellFormed(key) else { return nil }
        return KeyHash(SHA256.hash(data: key))
    }

    /// Only two operations can be signed for.
    private static func signedURL(_ head: RequestHead, _ path: ToolboxPath) -> SignedFileURL? {
        let text = head.text(path.rest)
        guard let mark = text.firstIndex(of: "?") else { return nil }
        let isSignable =
            switch text[..<mark] {
            case "/files/download": head.isGET
            case "/files/upload-v2": head.isPOST
            default: false
            }
        return isSignable ? SignedFileURL(query: text[text.index(after: mark)...]) : nil
    }
}
