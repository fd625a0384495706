package import Domain
import Postgres
package import Store

/// An organization with an owner, a region, a snapshot and a key that may do everything.
package struct TestTenant: Sendable {
    package let organization: OrganizationID
    package let user: UserID
    package let region: String
    package let snapshot: SnapshotRecord
    package let key: APIKeySecret

    /// A spec with this tenant's snapshot.
    package func newSandbox(name: String? = nil) -> NewSandbox {
        NewSandbox(organizationID: organization, regionID: region, snapshot: snapshot, name: name)
    }
}

extension TestDatabase {
    /// Makes an organization; region and general snapshot are shared by all tenants of the database.
    package func makeTenant(
        _ name: String = "acme",
        region: String = "test",
        image: String = "martlet/busybox:test"
    ) async throws -> TestTenant {
        let bootstrap = Bootstrap(owner)
        try await bootstrap.ensureRegion(region, name: region)
        let (organization, user) = try await bootstrap.ensureOrganization(
            named: name,
            region: region,
            adminEmail: "\(name)@example.com",
            adminName: name
        )
        try await bootstrap.putGeneralSnapshot(.init(name: "default", image: image))
        let key = try await bootstrap.createAPIKey(
            organization: organization,
            user: user,
            name: "test",
            replacing: true
        )
        let snapshot = try await owner.snapshots.find("default", for: organization)
        return TestTenant(organization: organization, user: user, region: region, snapshot: snapshot!, key: key)
    }

    /// Inserts a sandbox as the owner and answers how it stands.
    @discardableResult
    package func makeSandbox(
        of tenant: TestTenant,
        name: String? = nil,
        _ adjust: (inout NewSandbox) -> Void = { _ in }
    ) async throws -> SandboxRecord {
        var new = tenant.newSandbox(name: name)
        adjust(&new)
        try await owner.sandboxes.insert(new, by: Actor("test"))
        return try await owner.sandboxes.find(new.id, in: tenant.organization)!
    }
}
