import FoundationEssentials
import HTTPTypes
import Limiting
import Postgres
import Store

/// Finds out who asks, by the API key in `Authorization: Bearer …`.
struct Authenticator: Sendable {
    let database: any PostgresClient
    let cache: KeyCache
    let feed: ChangeFeed
    let failures: FailedAttempts
    let uses: KeyUseRecorder

    /// Throws 401, or 429 where an address fails too often. What is wrong with a key is not told.
    func caller(of headers: HTTPFields, from address: String) async throws -> Caller {
        guard let secret = Self.secret(in: headers) else {
            failures.note(Place(of: address))
            throw APIError(
                .unauthorized,
                "this needs an API key: send the header 'Authorization: Bearer mrt_…'"
            )
        }
        guard let key = try await key(secret, from: address) else {
            let error = APIError(.unauthorized, "the API key is not valid: it is unknown, revoked or expired")
            throw failures.refusal(error, from: address)
        }
        uses.note(key.id)
        return Caller(key)
    }

    private static func secret(in headers: HTTPFields) -> APIKeySecret? {
        guard let text = headers[.authorization] else { return nil }
        let parts = text.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0].lowercased() == "bearer" else { return nil }
        return APIKeySecret(parts[1])
    }

    private func key(_ secret: APIKeySecret, from address: String) async throws -> APIKeyRecord? {
        let hash = secret.hash
        let isCacheTrusted = feed.isListening
        if isCacheTrusted, let key = cache.key(hash), key.expiresAt.map({ $0 > Date() }) ?? true { return key }
        let ticket = cache.ticket
        guard let key = try await translatingErrors({ try await database.apiKeys.authorize(hash: hash) }) else {
            return nil
        }
        if isCacheTrusted { cache.keep(key, hash: hash, ticket: ticket) }
        return key
    }
}
