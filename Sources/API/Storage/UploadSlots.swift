import Domain
import HTTPTypes
import Synchronization

/// How many parts are held in memory at a time, in all and for one organization.
final class UploadSlots: Sendable {
    private struct State {
        var all = 0
        var byOrganization: [OrganizationID: Int] = [:]
    }

    private let state = Mutex(State())
    private let limit: Int
    private let organizationLimit: Int

    init(limit: Int, organizationLimit: Int) {
        self.limit = limit
        self.organizationLimit = organizationLimit
    }

    /// Runs `body` in a slot. Throws 503 where there is none: S3 clients try that again by themselves, later and later.
    func within<Value>(_ organization: OrganizationID, _ body: () async throws -> Value) async throws -> Value {
        guard take(organization) else {
            throw APIError(
                .serviceUnavailable,
                "\(organizationLimit) parts of this organization, or \(limit) in all, are being uploaded already. Try again"
            )
        }
        defer { give(organization) }
        return try await body()
    }

    private func take(_ organization: OrganizationID) -> Bool {
        state.withLock { state in
            guard state.all < limit, state.byOrganization[organization, default: 0] < organizationLimit else {
                return false
            }
            state.all += 1
            state.byOrganization[organization, default: 0] += 1
            return true
        }
    }

    private func give(_ organization: OrganizationID) {
        state.withLock { state in
            state.all -= 1
            let rest = state.byOrganization[organization, default: 1] - 1
            state.byOrganization[organization] = rest > 0 ? rest : nil
        }
    }
}
