import Domain
import Store

/// Who makes a request: a key, which acts for its user in its organization.
struct Caller: Sendable {
    let key: APIKeyRecord
    let permissions: PermissionSet

    init(_ key: APIKeyRecord) {
        self.key = key
        permissions = PermissionSet(key.permissions)
    }

    var organization: OrganizationID { key.organizationID }
    var user: UserID { key.userID }

    /// How events name it.
    var actor: Actor { .key(prefix: key.prefix) }

    /// Throws 403, naming what lacks.
    func require(_ permission: Permission) throws {
        guard permissions.contains(permission) else {
            throw APIError.forbidden(
                "the API key '\(key.name)' lacks the permission \(permission.rawValue). Use a key that has it, or make one"
            )
        }
    }
}
