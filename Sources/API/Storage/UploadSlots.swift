import Domain
import HTTPTypes
import Limiting

/// How many parts are held in memory at a time, in all and for one organization.
struct UploadSlots: Sendable {
    private let taken: PlaceCounts<OrganizationID>
    private let limit: Int
    private let organizationLimit: Int

    init(limit: Int, organizationLimit: Int) {
        taken = PlaceCounts(limit: organizationLimit, totalLimit: limit)
        self.limit = limit
        self.organizationLimit = organizationLimit
    }

    /// Runs `body` in a slot. Throws 503 where there is none: S3 clients try that again by themselves, later and later.
    func within<Value>(_ organization: OrganizationID, _ body: () async throws -> Value) async throws -> Value {
        guard taken.admit(organization) else {
            throw APIError(
                .serviceUnavailable,
                "\(organizationLimit) parts of this organization, or \(limit) in all, are being uploaded already. Try again"
            )
        }
        defer { taken.leave(organization) }
        return try await body()
    }
}
